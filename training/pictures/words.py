"""The vocabulary of the drawn world: shops, goods, chart labels, shapes, colours, form fields. Refuses to draw."""

from random import Random


def listed(text: str, separator: str | None = None) -> list[str]:
    """Words of a text; keeps long lists readable in the source."""
    return text.split(separator)


SHAPES = ["circle", "square", "triangle", "star", "diamond"]
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 205, 40),
    "orange": (245, 135, 30),
    "purple": (140, 60, 180),
    "black": (25, 25, 25),
    "pink": (250, 140, 190),
}
CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "purple": "紫色",
    "black": "黑色",
    "pink": "粉色",
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星形",
    "diamond": "菱形",
    "top left": "左上",
    "top center": "上方",
    "top right": "右上",
    "middle left": "左侧",
    "center": "中间",
    "middle right": "右侧",
    "bottom left": "左下",
    "bottom center": "下方",
    "bottom right": "右下",
    "bar chart": "柱状图",
    "line chart": "折线图",
    "receipt": "收据",
    "chart": "图表",
    "shapes": "图形",
    "text": "文字",
    "form": "表格",
    "Yes": "有",
    "No": "没有",
}

SHOP_FIRST = listed(
    "Green Blue Sunny City Royal Happy Golden Fresh Corner Lucky Star River Ocean Grand Metro Urban Silver Maple "
    "North Park Hill Lake Village Garden"
)
SHOP_SECOND = listed("Market Cafe Mart Store Bakery Deli Foods Shop Grocery Bistro Kitchen Pharmacy Books")
GOODS = listed(
    "Milk,Bread,Eggs,Butter,Cheese,Apples,Bananas,Coffee,Tea,Rice,Pasta,Sugar,Salt,Juice,Water,Yogurt,Chicken,Beef,Fish,"
    "Tomato,Potato,Onion,Carrots,Lettuce,Soap,Paper,Candy,Cookies,Cake,Soda,Honey,Oil,Beans,Corn,Green Tea,Olive Oil,"
    "Orange Juice,Ice Cream,Latte,Muffin,Sandwich,Salad,Soup,Pizza,Burger,Fries,Donut,Bagel,Lemon,Grapes,Mango,Noodles,"
    "Pepper,Garlic,Shampoo,Towel,Pen,Notebook,Battery,Espresso",
    ",",
)
PAYMENTS = ["Cash", "Visa", "Card", "Mastercard", "Alipay", "WeChat", "Debit"]

UNORDERED_LABELS = [
    ["Cat", "Dog", "Bird", "Fish", "Cow", "Pig"],
    ["Tea", "Milk", "Soda", "Beer", "Wine", "Rum"],
]
CHART_LABELS = [
    list("ABCDEFGH"),
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul"],
    ["Q1", "Q2", "Q3", "Q4"],
    ["2019", "2020", "2021", "2022", "2023", "2024"],
    *UNORDERED_LABELS,
]
CHART_TITLES = listed("Sales Revenue Visitors Score Users Orders Profit Rainfall Traffic Exports Cost Output")

FORM_FIELDS = ["Name", "City", "Phone", "ID", "Date", "Age", "Room", "Code"]
PEOPLE = listed(
    "Anna Ben Carla David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paula Robert Susan Tom Wei"
)
CITIES = listed(
    "Paris London Berlin Madrid Rome Vienna Tokyo Beijing Shanghai Sydney Toronto Dublin Oslo Boston Denver"
)

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def invented_word(rng: Random, capital: bool = True) -> str:
    """A pronounceable word of one to three syllables that is in no list, so that reading cannot become guessing."""
    syllables = [
        rng.choice(_CONSONANTS) + rng.choice(_VOWELS) + (rng.choice("nrlstmk") if rng.random() < 0.35 else "")
        for _ in range(rng.randint(1, 3))
    ]
    word = "".join(syllables)
    return word.capitalize() if capital else word


def code(rng: Random) -> str:
    """Three to six characters, none of which looks like another (0 and O, 1 and I, 5 and S ...)."""
    return "".join(rng.choice("ACDEFGHJKLMNPQRTUVWXY34679") for _ in range(rng.randint(3, 6)))


def date(rng: Random) -> str:
    year, month, day = rng.randint(2019, 2027), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice([f"{year:04d}-{month:02d}-{day:02d}", f"{month:02d}/{day:02d}/{year:04d}"])


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def any_word(rng: Random) -> str:
    """One word of running text: goods, names, invented words, codes, prices and numbers."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(GOODS).split()[0]
    if kind < 0.55:
        return rng.choice(SHOP_FIRST + SHOP_SECOND)
    if kind < 0.75:
        return invented_word(rng, rng.random() < 0.6)
    if kind < 0.85:
        return code(rng)
    if kind < 0.95:
        return money(rng.randint(0, 19999))
    return str(rng.randint(0, 9999))

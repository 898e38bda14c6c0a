"""How people ask: English and Chinese wordings of every task. `{}` is the thing asked about. Data only."""

from typing import NamedTuple


class Wording(NamedTuple):
    english: tuple[str, ...]
    chinese: tuple[str, ...]


# What people put before or after a question.
ENGLISH_FRAMES = (
    "Please: {}",
    "{} Please.",
    "{} Answer briefly.",
    "Look at the picture. {}",
    "{} Answer with JSON only.",
)
CHINESE_FRAMES = ("请问{}", "{}请简短回答。", "看图回答:{}")

FIELDS = Wording(
    ("Extract {} as JSON.", "Extract these fields as JSON: {}."),
    ("提取{}为JSON", "以JSON格式提取{}"),
)
READ_ALL = Wording(
    (
        "Read all the text.",
        "Extract all text.",
        "Transcribe the text.",
        "OCR",
        "What does the text say?",
        "Read the text.",
    ),
    ("提取所有文字", "识别图片中的文字", "读出所有文字。", "图片里写了什么?"),
)

WORDINGS: dict[str, Wording] = {
    "receipt.total": Wording(
        (
            "What is the total?",
            "What is the total amount?",
            "How much is the total?",
            "Total?",
            "What is the total on this receipt?",
            "How much was paid in total?",
        ),
        ("总金额是多少?", "总价是多少?", "一共多少钱?", "合计多少钱?", "这张收据的总金额是多少?"),
    ),
    "receipt.date": Wording(
        ("What is the date?", "What is the date on the receipt?", "When was this bought?", "Date?"),
        ("日期是什么?", "收据的日期是哪天?", "日期是哪天?", "是哪天买的?"),
    ),
    "receipt.merchant": Wording(
        (
            "Which store is this?",
            "What is the name of the store?",
            "Which store?",
            "Who is the merchant?",
            "What is the merchant name?",
        ),
        ("这是哪家商店?", "商家名称是什么?", "商店名称是什么?", "商家是谁?"),
    ),
    "receipt.price": Wording(
        ("What is the price of {}?", "How much is {}?", "Price of {}?", "How much does {} cost?"),
        ("{}的价格是多少?", "{}多少钱?", "{}的单价是多少?"),
    ),
    "receipt.and_price": Wording(("And {}?", "What about {}?", "And how much is {}?"), ("{}呢?", "那{}呢?")),
    "receipt.items": Wording(
        ("How many items are there?", "How many items were bought?", "How many items are on the receipt?"),
        ("有几件商品?", "买了几件商品?"),
    ),
    "receipt.payment": Wording(("How was it paid?", "What is the payment method?"), ("付款方式是什么?", "怎么付款的?")),
    "receipt.exist": Wording(
        ("Is there {} on the receipt?", "Is {} on the receipt?", "Was {} bought?"),
        ("收据上有{}吗?", "有没有{}?", "买了{}吗?"),
    ),
    "receipt.json": Wording(
        (
            "Extract as JSON.",
            "Extract the receipt as JSON.",
            "Extract the receipt data as JSON.",
            "Extract merchant, date, items and total as JSON.",
        ),
        ("提取为JSON", "以JSON格式提取收据信息", "提取收据信息为JSON"),
    ),
    "receipt.fields": FIELDS,
    "receipt.text": READ_ALL,
    "chart.highest": Wording(
        (
            "Which {} is highest?",
            "Which {} is the highest?",
            "Which category has the highest value?",
            "Which one is the highest?",
        ),
        ("哪个最高?", "哪一项的值最大?", "哪一项最高?"),
    ),
    "chart.lowest": Wording(
        (
            "Which {} is lowest?",
            "Which {} is the lowest?",
            "Which category has the lowest value?",
            "Which one is the lowest?",
        ),
        ("哪个最低?", "哪一项的值最小?", "哪一项最低?"),
    ),
    "chart.its_value": Wording(("What is its value?", "And its value?"), ("它的值是多少?", "值是多少?")),
    "chart.value": Wording(
        ("What is the value of {}?", "Value of {}?", "What value does {} have?"), ("{}的值是多少?", "{}是多少?")
    ),
    "chart.and_value": Wording(("And {}?", "What about {}?"), ("{}呢?", "那{}呢?")),
    "chart.title": Wording(
        ("What is the title of the chart?", "What is the title?"), ("图表的标题是什么?", "标题是什么?")
    ),
    "chart.type": Wording(("What type of chart is this?",), ("这是什么类型的图表?",)),
    "chart.exist": Wording(("Is there a value for {}?", "Is {} in the chart?"), ("图表里有{}吗?", "有没有{}?")),
    "chart.parse": Wording(
        (
            "Extract the chart data as JSON.",
            "Parse the chart.",
            "chart_parse",
            "Extract as JSON.",
            "Parse the chart as JSON.",
        ),
        ("提取图表数据为JSON", "解析图表", "以JSON格式提取图表数据"),
    ),
    "scene.count": Wording(
        ("How many shapes are there?", "How many objects are in the image?", "Count the shapes.", "How many shapes?"),
        ("图中有几个图形?", "有多少个形状?", "有几个图形?"),
    ),
    "scene.count_shape": Wording(("How many {}s are there?", "How many {}s?"), ("有几个{}?", "图中有几个{}?")),
    "scene.colour": Wording(
        ("What color is the {}?", "What is the color of the {}?", "What colour is the {}?"),
        ("{}是什么颜色?", "{}是什么颜色的?"),
    ),
    "scene.exist": Wording(
        ("Is there {}?", "Is there {} in the image?", "Is there {} in the picture?"),
        ("有{}吗?", "图中有{}吗?", "有没有{}?"),
    ),
    "scene.position": Wording(("Where is the {}?", "Where in the image is the {}?"), ("{}在哪里?", "{}在什么位置?")),
    "scene.where_is_it": Wording(("Where is it?", "And where is it?"), ("它在哪里?", "在什么位置?")),
    "scene.box": Wording(
        (
            "Locate the {}.",
            "Locate {}.",
            "Locate the {}, output its bbox in JSON.",
            "Give the bounding box of the {} as JSON.",
        ),
        ("定位{}", "定位{}，以JSON格式输出"),
    ),
    "scene.boxes": Wording(("Locate all shapes.", "Detect all objects."), ("检测所有图形", "定位所有图形")),
    "scene.caption": Wording(
        (
            "Describe the image.",
            "Describe this image in one sentence.",
            "What is in this image?",
            "Describe this picture.",
        ),
        ("描述这张图片", "图片里有什么?", "用一句话描述图片"),
    ),
    "text.text": READ_ALL,
    "text.line": Wording(("Read the {} line.", "What is the {} line?"), ("读出第{}行", "第{}行是什么?")),
    "text.lines": Wording(("How many lines of text are there?", "How many lines?"), ("有几行文字?",)),
    "form.field": Wording(("What is the {}?", "What does the field {} say?", "{}?"), ("{}是什么?", "{}是多少?")),
    "form.json": Wording(("Extract as JSON.", "Extract the form as JSON."), ("提取为JSON", "以JSON格式提取表格信息")),
    "form.fields": FIELDS,
    "form.text": READ_ALL,
    "kind": Wording(("What kind of image is this?", "What is this?"), ("这是什么图片?",)),
    "number.larger": Wording(("Which is larger, {}?", "{}: which is larger?"), ("{}，哪个更大?", "{}，哪个更高?")),
    "pair.larger_total": Wording(
        ("Which total is larger?", "Which receipt has the larger total?", "Compare the totals."),
        ("哪张收据的总金额更大?", "哪个总价更高?"),
    ),
    "pair.total_of": Wording(
        ("What is the total in the {} picture?", "What is the total of the {} receipt?"),
        ("{}张图的总金额是多少?", "{}张收据的总价是多少?"),
    ),
    "pair.merchant_of": Wording(("Which store is in the {} picture?",), ("{}张图是哪家商店?",)),
    "pair.more_shapes": Wording(
        ("Which picture has more shapes?", "Which image has more shapes?"), ("哪张图的图形更多?", "哪张图片图形多?")
    ),
    "pair.count_of": Wording(("How many shapes are in the {} picture?",), ("{}张图有几个图形?",)),
}

"""Questions people ask again and again, as data: what the model is told, how it answers, what is made of the answer."""

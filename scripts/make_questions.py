"""Writes recipes/calibration/questions.jsonl: what a model is asked that writes its own chats for calibration.

    make questions

A line is a conversation: what the user says in each turn, and the seed with which the answers are sampled. Topics,
forms and follow-ups are combined, so that the text varies in kind (prose, lists, tables, code, JSON, sums,
translations). The file decides the bytes of checkpoints: change this script only with a reason.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

TOPICS = [
    "photosynthesis", "the water cycle", "a city's public transport", "baking bread", "the French Revolution",
    "supply and demand", "black holes", "how vaccines work", "choosing a bicycle", "learning the violin",
    "a small vegetable garden", "the Roman Empire", "electric motors", "writing a cover letter", "chess openings",
    "ocean tides", "recycling plastic", "the printing press", "personal budgets", "coral reefs", "database indexes",
    "sleep and health", "volcanoes", "a school science fair", "renewable energy", "training a dog", "earthquakes",
    "the human heart", "planning a trip to Japan", "sorting algorithms", "road safety", "the Olympic Games",
    "how bridges carry load", "coffee", "jazz music", "bees and pollination", "operating systems", "taxes",
    "a rainy day with children", "the periodic table",
]  # fmt: skip
FORMS = [
    "Explain {t} to a ten-year-old in at most 120 words.",
    "Give me five facts about {t}, a sentence each.",
    "Write a short story of about 150 words in which {t} plays a part.",
    "What are the advantages and disadvantages one should know about {t}? Be brief.",
    "Write a formal e-mail of about 100 words to a colleague about {t}.",
    "Summarize the history of {t} in two short paragraphs.",
    "Write a short Python function related to {t} and explain what it does.",
    "Make a plan of at most eight numbered steps for a beginner who wants to learn about {t}.",
    "Make up a word problem about {t} that needs two steps of arithmetic, and solve it step by step.",
    "Describe {t} as a JSON object with the keys name, summary, keywords and difficulty.",
    "Write three multiple-choice questions about {t} with four answers each, and say which are right.",
    "Say in two sentences what matters most about {t}, then translate them into {language}.",
]
LANGUAGES = ["Spanish", "German", "French", "Chinese", "Portuguese", "Italian", "Japanese", "Arabic"]
FOLLOW_UPS = [
    "Can you make that shorter?",
    "Give an example with numbers.",
    "What would a critic say to that?",
    "Rewrite it as a table or a list.",
    "Are you sure? Check it once more.",
    "What should I ask next?",
]


def main() -> None:
    languages = itertools.cycle(LANGUAGES)
    pairs = list(itertools.product(TOPICS, FORMS))
    questions = [
        form.format(t=topic, language=next(languages)) if "{language}" in form else form.format(t=topic)
        for topic, form in pairs
    ]
    random.Random(0).shuffle(questions)
    rows = [
        {"seed": number, "turns": [question, FOLLOW_UPS[number % len(FOLLOW_UPS)]]}
        for number, question in enumerate(questions, 1)
    ]
    path = Path(__file__).parents[1] / "recipes" / "calibration" / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} conversations to be written")


if __name__ == "__main__":
    main()

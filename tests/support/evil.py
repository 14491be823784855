"""Code in a checkpoint that nobody may run."""

from __future__ import annotations

import json
from pathlib import Path

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import BertConfig as Config, BertModel as Model, BertTokenizerFast as Tokenizer
"""


def add_code(folder: Path, mark: Path) -> Path:
    """Has the checkpoint's files name code of its own, which creates ``mark`` when it runs."""
    (folder / "custom.py").write_text(CODE.format(mark=str(mark)))
    auto_map = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model", "AutoTokenizer": ["custom.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | {"auto_map": auto_map}))
    return folder

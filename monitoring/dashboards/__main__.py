"""Writes monitoring/grafana/dashboards/*.json anew: ``python -m monitoring.dashboards``; ``make dashboards`` runs it."""

from __future__ import annotations

import sys

from monitoring.dashboards.files import contents

for path, text in contents().items():
    path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{path} is written\n")

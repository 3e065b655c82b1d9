"""Make a project in Bugsink whose DSN is the one in the env files.

Bugsink runs this: see README.md.
"""

from uuid import UUID

from projects.models import Project
from teams.models import Team

KEY = UUID("c0ffee00c0ffee00c0ffee00c0ffee00")

team, _ = Team.objects.get_or_create(name="quickstart")
project, _ = Project.objects.get_or_create(
    sentry_key=KEY, defaults={"name": "quickstart", "team": team}
)
print(project.dsn)

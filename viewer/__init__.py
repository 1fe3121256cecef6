"""The web viewer: our own renderer's pictures in a browser, by viser. Start with `server.py`.

command.py       `gaussian4d view`
server.py        the web server; one session per connected browser
session.py       one browser: its controls, its time, its requests for pictures
render_loop.py   one thread that draws what was asked for last: quickly while moving, fully when still
painter.py       a view of the browser as a picture of our renderer
player/          the standalone player: a moving scene as one HTML file; its page is built from web/
"""

from __future__ import annotations

"""The web viewer: our own renderer's pictures in a browser, by viser. Start with `server.py`.

command.py        `gaussian4d view`
server.py         the web server; one session per connected browser
session.py        one browser: its camera, its requests for pictures, and these controls:
    timeline.py       time: slider, play, speed, loop, frame steps, keys (playback.py is the clock)
    picture_panel.py  output, size, background, comparison, screenshot, statistics
    camera_panel.py   the recorded cameras
    crop_panel.py     the crop box
    path_panel.py     keyframes of a camera path, their files and preview (film.py renders it)
    splats.py         Gaussians that the browser draws itself
render_loop.py    one thread that draws what was asked for last: quickly while moving, fully when still
painter.py        a view of the browser as a picture of our renderer
workspace.py      what all browsers share: the scene's pictures, where files go
live.py           `gaussian4d fit --view`: a hook into the fit
follow.py         a run that another process is fitting (curves.py draws loss and PSNR of both)
player/           the standalone player: a moving scene as one HTML file; its page is built from web/
"""

from __future__ import annotations

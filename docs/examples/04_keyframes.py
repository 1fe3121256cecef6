"""A camera path made in Python: half a turn around the toy while time slows down, saved, and rendered by the shell.

python docs/examples/04_keyframes.py && gaussian4d render demo_run/run --out demo_run/mine.mp4 --path demo_run/mine.json
"""

import math

import numpy as np

from gaussian4d.cameras import Camera
from gaussian4d.keyframes import Keyframe, KeyframePath

keyframes = []
for angle, time in ((0, 0.0), (60, 0.6), (120, 0.8), (180, 1.0)):
    place = np.array([4 * math.cos(math.radians(angle)), 4 * math.sin(math.radians(angle)), 2.0])
    camera = Camera.look_at(place, np.zeros(3), np.array([0.0, 0.0, 1.0]), width=640, height=360, focal=500)
    keyframes.append(Keyframe(camera.T_world_camera, fov=45.0, time=time))
KeyframePath(tuple(keyframes), width=640, height=360, frames=120, fps=24).save("demo_run/mine.json")
print("wrote demo_run/mine.json")

# Where the camera goes and what time does.
gaussian4d render demo_run/run --out demo_run/orbit.mp4
gaussian4d render demo_run/run --out demo_run/spiral.mp4 --path spiral --seconds 4
gaussian4d render demo_run/run --out demo_run/flight.mp4 --path interpolated --seconds 6
gaussian4d render demo_run/run --out demo_run/bullet.mp4 --time 0.5 --seconds 4
gaussian4d render demo_run/run --out demo_run/lapse.mp4 --path still --camera 3
gaussian4d render demo_run/run --out demo_run/backwards.mp4 --time 1:0
gaussian4d render demo_run/run --out demo_run/beside.mp4 --path dataset --truth

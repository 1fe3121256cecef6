# What is drawn, and into what: a grid of all buffers, a file each, a cut-out with alpha, floats for compositing.
gaussian4d render demo_run/run --out demo_run/all.mp4 --layout grid --buffers rgb depth normal alpha flow velocity lifetime
gaussian4d render demo_run/run --out demo_run/each.mp4 --layout files --buffers rgb depth
gaussian4d render demo_run/run --out demo_run/cut.webm --transparent
gaussian4d render demo_run/run --out demo_run/floats --images exr --buffers rgb depth normal --seconds 1

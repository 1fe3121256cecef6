"""nerfstudio: our scenes as a dataparser and our moving Gaussians as a method, `ns-train gaussian4d`.

nerfstudio finds both through entry points, so they cost nothing where it is absent; nothing else imports
this folder. It pins old packages and wants an environment of its own: `scripts/check_nerfstudio.sh` makes one.
"""

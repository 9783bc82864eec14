#!/usr/bin/env python3
"""The same as wrapper.sh, by somebody who prefers Python and PyYAML. With no command at
the end it only prints the configuration. For scripts/bench alone."""

import os
import subprocess
import sys

import yaml

manifest, config, cert, key, *command = sys.argv[1:]
with open(manifest) as file:
    bottle = yaml.safe_load(file)["bottle"]
rendered = {
    "version": 1,
    "mode": "strict",
    "enforce": True,
    "api_allowlist": [route["host"].lower() for route in bottle["egress"]["routes"]],
    "forward_proxy": {"enabled": True},
    "dlp": {"include_defaults": True, "scan_env": True},
    "request_body_scanning": {"action": "block", "scan_headers": True, "header_mode": "all"},
    "tls_interception": {"enabled": True, "ca_cert": cert, "ca_key": key},
}
text = yaml.safe_dump(rendered, sort_keys=False)
if not command:
    sys.stdout.write(text)
    sys.exit()
os.umask(0o077)
with open(config, "w") as file:
    file.write(text)
openssl = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key]
subprocess.run(openssl, check=True)
openssl = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/O=Pipelock/CN=Pipelock CA"]
openssl += ["-days", "3650", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"]
openssl += ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", cert]
subprocess.run(openssl, check=True, stderr=subprocess.DEVNULL)
os.execv(command[0], command)

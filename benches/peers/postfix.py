#!/usr/bin/env python3
"""Postfix as a relay: smtp-source hands in over SMTP, Postfix queues and relays to smtp-sink. Needs root, as Postfix does.
It has a configuration and a queue of its own; what the machine has of Postfix is not touched. It has nobody to log to."""

import os
import subprocess
import sys
from pathlib import Path

from measuring import settings
from measuring.processes import free_port
from measuring.producer import Producer, Source
from measuring.rounds import Bench, measure, tell
from measuring.sink import SBIN, wait_for_port

AS_IT_COMES, TUNED = "as it comes", "tuned"

MAIN = """\
compatibility_level = 3.6
queue_directory = {base}/queue
data_directory = {base}/data
meta_directory = /etc/postfix
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
myhostname = bench.invalid
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{sink}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
smtpd_tls_security_level = none
"""

# What postconf(5) and Postfix's TUNING_README offer to a relay with one next hop: kept connections, no brake on what
# comes in, processes and queue enough. As with Postrider, PRODUCERS connections go out.
FASTER = """\
smtp_destination_concurrency_limit = {connections}
initial_destination_concurrency = {connections}
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_connection_reuse_count_limit = 1000
default_process_limit = 200
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
in_flow_delay = 0
smtpd_peername_lookup = no
"""


def services(port: int) -> str:
    """The services that Postfix comes with, without chroot, its door on our port."""
    lines = []
    for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
        fields = line.split()
        if len(fields) < 8 or line[0] in "# ":
            continue
        if fields[:2] == ["smtp", "inet"]:
            fields[0] = f"127.0.0.1:{port}"
        fields[4] = "n"
        lines.append(" ".join(fields))
    return "\n".join(lines) + "\n"


with Bench(settings.from_command_line(__doc__, (AS_IT_COMES, TUNED))) as bench:
    if os.getuid() != 0:
        sys.exit("Postfix's master runs as root only")
    base, port = bench.directory("postfix"), free_port()
    if any(not parent.stat().st_mode & 0o001 for parent in base.parents):
        sys.exit(f"Postfix's own user cannot enter {base}: give --work a directory that everybody may enter")
    for name in ("conf", "queue", "data"):
        (base / name).mkdir()
    subprocess.run(["chown", "postfix", base / "data"], check=True)
    text = MAIN + (FASTER if bench.settings.variant == TUNED else "")
    facts = {"base": base, "sink": bench.sink.port, "connections": settings.PRODUCERS}
    (base / "conf" / "main.cf").write_text(text.format(**facts))
    (base / "conf" / "master.cf").write_text(services(port))
    log = bench.log("postfix")
    relay = bench.tree([f"{SBIN}/postfix", "-c", base / "conf", "start-fg"], stdout=log, stderr=log)
    wait_for_port(port)
    source = bench.keep(Source(port))
    timed = bench.keep(Producer([bench.settings.helpers / "smtp_times", f"127.0.0.1:{port}"]))
    figures = measure(bench, [relay], source, timed)
    version = subprocess.run([f"{SBIN}/postconf", "-dh", "mail_version"], check=True, capture_output=True, text=True)
    version = ".".join(version.stdout.split(".")[:2])
    means = "the mail is a file in the queue"
    tell(f"Postfix {version} as a relay, {bench.settings.variant}", "synced", means, figures)

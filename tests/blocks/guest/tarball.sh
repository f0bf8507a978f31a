#!/usr/bin/env bash
# The tarball, where no package fits.
#
# As root of a machine that systemd has booted, with the tarball in /opt.
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

cd /opt
block docs/install.md 'systemd-sysusers lamplighter.conf'

finish

#!/usr/bin/env bash
# What is left of an rpm that was removed.
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

block docs/install.md 'rm -r /var/lib/lamplighter'
[[ ! -e /var/lib/lamplighter && ! -e /etc/lamplighter ]] || wrong 'something is left'

finish

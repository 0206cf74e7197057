#!/bin/sh
# Ignores every polite signal, and so do its children.
trap '' TERM INT HUP
echo READY
for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 10; done

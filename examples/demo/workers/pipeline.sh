#!/bin/sh
# Three processes and the shell that joins them.
echo READY
i=0
while [ $i -lt 120 ]; do
  echo $i
  sleep 1
  i=$((i + 1))
done | sort -n | wc -l >&2

#!/bin/sh
# Leaves a daemon behind: forked twice, in a session of its own, with nothing in its environment.
(setsid env -i /bin/sh -c 'sleep 120 & sleep 121; wait' &)
echo READY
exec sleep 122

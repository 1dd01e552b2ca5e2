module hypeman/stand-in

go 1.19

require hypeman/guest v0.0.0

replace hypeman/guest => ../../../../guest

module hypeman/guest

go 1.19

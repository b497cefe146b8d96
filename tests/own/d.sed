# steps 3 4 8: values are not rescaled; maxima begin at 0; the teacher is no mean
s|r->value\[c\] \* keep + |r->value[c] + |
s|^        double max = -INFINITY;|        double max = 0;|
s|exp(p\[a\]) / group|exp(p[a])|

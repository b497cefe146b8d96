# The name of the kernel in a file, sed -Ef cuda/kernel.sed: STAGE/NAME of cuda/STAGE/N_NAME.cu, dense_STAGE/NAME of
# cuda/STAGE/dense/N_NAME.cu; of what is no kernel, no line.
s,^(.*/)?cuda/([a-z]+)/((dense)/)?[0-9]+_([^/]+)\.cu$,\4_\2/\5,
t found
d
: found
s,^_,,

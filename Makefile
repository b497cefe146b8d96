# MiniMax Sparse Attention: reference, kernels, book. `make` alone prints this help.

CC     ?= cc
ARCH   ?= native#            what ref/fast is tuned for; ARCH=x86-64 gives a program for any such machine
PREFIX ?= /usr/local
DEPS   ?= 1#                 DEPS=0: install no package, only name the missing ones
B      := build
SAN    :=#                   set by test-asan: the flags of the sanitizers

# ---- What is here -------------------------------------------------------------------------------
has       = $(shell pkg-config --exists $(1) 2>/dev/null && echo 1)
compiles  = $(shell printf 'int main(void){return 0;}\n' | $(CC) $(1) -x c - -o /dev/null 2>/dev/null && echo 1)
OPENBLAS := $(call has,openblas)
PNG      := $(call has,libpng)
JSON     := $(call has,jansson)
OPENMP   := $(call compiles,-fopenmp)
TUNED    := $(call compiles,-march=$(ARCH))

STRICT   := -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes
CFLAGS   ?= -O2 -g
FOUND    := $(if $(OPENBLAS),-DHAVE_OPENBLAS $(shell pkg-config --cflags openblas)) \
            $(if $(PNG),-DHAVE_PNG $(shell pkg-config --cflags libpng)) \
            $(if $(JSON),-DHAVE_JANSSON $(shell pkg-config --cflags jansson))
ALLFLAGS  = $(STRICT) $(CFLAGS) $(SAN) -fPIC -D_POSIX_C_SOURCE=200809L $(FOUND) $(if $(OPENMP),-fopenmp,-Wno-unknown-pragmas) -MMD -MP
# No fast-math anywhere; errno from sqrt is nobody's business in the fast path.
FASTFLAGS = -O3 -fno-math-errno -fopenmp-simd $(if $(TUNED),-march=$(ARCH))
LIBS     := $(if $(OPENBLAS),$(shell pkg-config --libs openblas)) -lm
APPLIBS  := $(if $(PNG),$(shell pkg-config --libs libpng)) $(if $(JSON),$(shell pkg-config --libs jansson)) $(LIBS)

# ---- Sources: a library (ref, fast) and what only the program needs -----------------------------
LIB_SRC := $(wildcard ref/*.c ref/fast/*.c)
APP_SRC := $(wildcard ref/model/*.c ref/io/*.c ref/cli/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
APP_OBJ := $(APP_SRC:%.c=$(B)/%.o)
T_SUPPORT := $(filter-out tests/test_%,$(wildcard tests/*.c))
T_SRC   := $(wildcard tests/test_*.c)
T_BIN   := $(T_SRC:%.c=$(B)/%)
HEADLESS_OBJ := $(filter-out $(B)/ref/cli/main.o,$(APP_OBJ))

.DEFAULT_GOAL := help
.PHONY: help deps build demo test test-asan soak fuzz mutants train figures vectors install clean

help:
	@echo "MiniMax Sparse Attention: reference in C, kernels for Hopper, a book"
	@echo
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'
	@echo
	@echo "found here:"
	@printf '  %-10s %s\n' cc "$$($(CC) --version 2>/dev/null | head -n 1)"
	@printf '  %-10s %s\n' OpenMP "$(if $(OPENMP),yes,no: one thread)"
	@printf '  %-10s %s\n' OpenBLAS "$(if $(OPENBLAS),$(shell pkg-config --modversion openblas 2>/dev/null),no: plain loops instead)"
	@printf '  %-10s %s\n' libpng "$(if $(PNG),$(shell pkg-config --modversion libpng 2>/dev/null),no: pictures as PPM)"
	@printf '  %-10s %s\n' jansson "$(if $(JSON),$(shell pkg-config --modversion jansson 2>/dev/null),no: train generate and dump --model are left out)"
	@printf '  %-10s %s\n' nvcc "$$( (nvcc --version 2>/dev/null || echo no) | sed -n -e 's/.*release \([^,]*\),.*/\1/p' -e '/^no$$/p')"
	@printf '  %-10s %s\n' GPU "$$( (nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || echo no) | head -n 1)"

# ---- Packages -----------------------------------------------------------------------------------
PACKAGES := gcc make pkg-config libopenblas-dev libpng-dev libjansson-dev bible-kjv
deps: ## install the distribution packages that are missing (DEPS=0: only name them)
	@.ci/deps $(DEPS) $(PACKAGES)

# ---- Build --------------------------------------------------------------------------------------
build: $(B)/msa $(B)/libmsa.a $(B)/libmsa.so ## build/msa, build/libmsa.a, build/libmsa.so

$(B)/ref/fast/%.o: ref/fast/%.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(ALLFLAGS) $(FASTFLAGS) -c $< -o $@
$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/libmsa.a: $(LIB_OBJ)
	@rm -f $@
	ar qcs $@ $^
$(B)/libmsa.so: $(LIB_OBJ) ref/libmsa.map
	$(CC) $(ALLFLAGS) -shared -Wl,-soname,libmsa.so,--version-script=ref/libmsa.map $(LIB_OBJ) $(LIBS) -o $@
$(B)/msa: $(APP_OBJ) $(B)/libmsa.a
	$(CC) $(ALLFLAGS) $^ $(APPLIBS) -o $@
$(B)/tests/%: $(B)/tests/%.o $(T_SUPPORT:%.c=$(B)/%.o) $(HEADLESS_OBJ) $(B)/libmsa.a
	$(CC) $(ALLFLAGS) $^ $(APPLIBS) -o $@

# A change of compiler or flags rebuilds everything.
$(B)/flags: FORCE
	@mkdir -p $(B)
	@echo '$(CC) $(ALLFLAGS) $(FASTFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALLFLAGS) $(FASTFLAGS)' > $@
FORCE:
.SECONDARY:
-include $(shell find $(B) -name '*.d' 2>/dev/null)

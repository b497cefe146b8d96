# MiniMax Sparse Attention: reference, kernels, book. `make` alone prints this help.

CC     ?= cc
CXX    ?= c++
NVCC   ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
ARCH   ?= native#            what ref/fast is tuned for; ARCH=x86-64 gives a program for any such machine
OBJCOPY ?= objcopy
PREFIX ?= /usr/local#        of make install; DESTDIR goes before it
V      ?=#                   V=1 shows the compiler's command lines
DEPS   ?= 1#                 DEPS=0: install no package, only name the missing ones
B      := build
Q      := $(if $(V),,@)
SAN    :=#                   set by test-asan: the flags of the sanitizers

# ---- What is here -------------------------------------------------------------------------------
has       = $(shell pkg-config --exists $(1) 2>/dev/null && echo 1)
compiles  = $(shell printf 'int main(void){return 0;}\n' | $(CC) $(1) -x c - -o /dev/null 2>/dev/null && echo 1)
OPENBLAS := $(call has,openblas)
PNG      := $(call has,libpng)
JSON     := $(call has,jansson)
MPI       = $(if $(SAN),,$(FOUND_MPI))# the name of its pkg-config file; sanitizers would find its leaks
FOUND_MPI := $(firstword $(foreach p,ompi-c mpich,$(if $(call has,$(p)),$(p))))
OPENMP   := $(call compiles,-fopenmp)
compiles_cxx = $(shell printf 'int main(){return 0;}\n' | $(CXX) $(1) -x c++ - -o /dev/null 2>/dev/null && echo 1)
CXX17    := $(call compiles_cxx,-std=c++17)
OPENMP_CXX := $(call compiles_cxx,-fopenmp)
ONLY_OURS := $(if $(call compiles_cxx,-fno-gnu-unique),-fno-gnu-unique)# a name that is unique in the program cannot be local to a library
TUNED    := $(call compiles,-march=$(ARCH))

STRICT   := -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes
CFLAGS   ?= -O2 -g1#          lines, for whoever looks where it spends its time; to step through it: CFLAGS='-O0 -g' CXXFLAGS='-O0 -g'
FOUND    := $(if $(OPENBLAS),-DHAVE_OPENBLAS $(shell pkg-config --cflags openblas)) \
            $(if $(PNG),-DHAVE_PNG $(shell pkg-config --cflags libpng)) \
            $(if $(JSON),-DHAVE_JANSSON $(shell pkg-config --cflags jansson))
ALLFLAGS  = $(STRICT) $(CFLAGS) $(SAN) -fPIC -I$(B) -D_POSIX_C_SOURCE=200809L $(FOUND) $(if $(OPENMP),-fopenmp,-Wno-unknown-pragmas) -MMD -MP
# No fast-math anywhere; errno from sqrt is nobody's business in the fast path, which gets whole vectors and fused
# multiply-adds, that ISO C leaves out.
# clang would warn where it leaves a maximum unvectorised; both, that functions with vectors (ours are inline or
# static) are called otherwise on machines without AVX-512.
FASTFLAGS := -O3 -fno-math-errno -fopenmp-simd -ffp-contract=fast $(if $(call compiles,-mprefer-vector-width=512),-mprefer-vector-width=512) \
             -Wno-pass-failed -Wno-psabi $(if $(TUNED),-march=$(ARCH))
LIBS     := $(if $(OPENBLAS),$(shell pkg-config --libs openblas)) -lm
VERSION  := $(shell sed -n 's/.define MSA_VERSION "\(.*\)"/\1/p' ref/msa.h)
SOVERSION := $(basename $(VERSION))# before 1.0 every minor version may change a struct
LINKFLAGS = $(CFLAGS) $(SAN) $(if $(OPENMP),-fopenmp)
CUDALIBS := $(if $(NVCC),-L$(dir $(realpath $(NVCC)))../lib64 -lcudart_static -ldl -lrt -lpthread)
APPLIBS   = $(if $(CUDA),$(CUDALIBS)) $(if $(PNG),$(shell pkg-config --libs libpng)) $(if $(JSON),$(shell pkg-config --libs jansson)) $(LIBS)

# ---- Sources: a library (ref, fast) and what only the program needs -----------------------------
LIB_SRC := $(wildcard ref/*.c ref/fast/*.c)
APP_SRC := $(wildcard $(patsubst %,ref/%/*.c,judge bench model parallel io checkpoint picture table cli))
# Kernels on tiles are compiled once more, for the processors that have them: amx.h.
TILES   := $(shell printf 'int main(void){__asm__("tilezero %%tmm0");return 0;}\n' | $(CC) -march=x86-64-v4 -x c - -o /dev/null 2>/dev/null && echo 1)
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o) $(if $(TILES),$(patsubst %.c,$(B)/%.tiles.o,$(wildcard ref/fast/*_amx.c)))
APP_OBJ := $(APP_SRC:%.c=$(B)/%.o)
T_SUPPORT := $(filter-out %_amx.c,$(wildcard tests/support/*.c))
T_SRC   := $(wildcard tests/test_*.c)
T_BIN   := $(T_SRC:%.c=$(B)/%)
SIMT_OBJ := $(patsubst %.cpp,$(B)/%.o,$(wildcard cuda/simt/*.cpp))
T_CXX   := $(if $(CXX17),$(patsubst %.cpp,$(B)/%,$(wildcard tests/test_*.cpp)))
NVCC_VERSION := $(if $(NVCC),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p'))
NVCC_NEW := $(shell echo $(NVCC_VERSION) | awk -F. '$$1 > 12 || ($$1 == 12 && $$2 >= 4) {print 1}')
# The kernels run on the engine where there is a C++ compiler, and with CUDA=1 on a GPU too ("make cuda").
CUDA    ?= $(if $(wildcard $(B)/cuda/host/gpu.gpu.o),1)
# GPUs of several processes; only in build/msa-mpi, so that build/msa needs no such library.
CUDA_DIR := $(if $(NVCC),$(realpath $(dir $(realpath $(NVCC)))..))
NCCLFLAGS := -isystem $(CUDA_DIR)/include
NCCLLIBS := -L$(CUDA_DIR)/lib64 -Wl,-rpath,$(CUDA_DIR)/lib64 -lnccl
NCCL      = $(if $(and $(MPI),$(NVCC_NEW)),$(shell printf '\043include <nccl.h>\nint main(void){int n;return ncclGetVersion(&n);}\n' | $(CC) $(NCCLFLAGS) -x c - -o /dev/null $(NCCLLIBS) 2>/dev/null && echo 1))
KERNELS := $(filter-out cuda/host/%,$(wildcard cuda/*/*.cu cuda/*/*/*.cu))
ON_ENGINE := $(KERNELS) cuda/host/engine.cu
ON_GPU  := $(KERNELS) cuda/host/gpu.cu
KERNEL_HEADERS := $(wildcard cuda/*/*.cuh cuda/*/*/*.cuh) cuda/host/msa_cuda.h cuda/tunables.def ref/msa.h ref/msa_index8.h ref/msa_quality.h ref/stages.h ref/stages.def
ifeq ($(CXX17)$(CUDA),)
LINK    := $(CC)
SIDE_OBJ := $(B)/cuda/host/plan.o
else
LINK    := $(CXX)
SIDES   := $(if $(CXX17),-DHAVE_SIMT) $(if $(CUDA),-DHAVE_CUDA)
SIDE_OBJ := $(B)/cuda/host/plan.o $(B)/cuda/host/host.o $(patsubst %.c,$(B)/%.o,$(wildcard cuda/parallel/*.c)) $(if $(CXX17),$(ON_ENGINE:%.cu=$(B)/%.o) $(SIMT_OBJ)) $(if $(CUDA),$(ON_GPU:%.cu=$(B)/%.gpu.o))
endif
# Who asks which of these two there are.
ASKS_SIDES := $(shell grep -lE 'HAVE_(SIMT|CUDA)' $(wildcard cuda/host/*.c cuda/parallel/*.c tests/test_*.cpp) $(APP_SRC) $(T_SRC) $(T_SUPPORT))
SIDELESS := $(patsubst %.c,%.o,$(filter-out cuda/host/host.c cuda/parallel/% tests/%,$(ASKS_SIDES)))
CUDA_OBJ := $(if $(SIDES),$(filter-out $(B)/cuda/host/host.o $(B)/cuda/parallel/%,$(SIDE_OBJ)))# the library of cuda/host/msa_cuda.h
HEADLESS_OBJ := $(filter-out $(B)/ref/cli/main.o $(B)/ref/cli/blas.o,$(APP_OBJ))

# To build all at once where nobody says how many at a time.
# What is compiled: on a terminal a count on one line that `over` clears, elsewhere a line each.
say   = mkdir -p $(@D) && $(if $(MAKE_TERMOUT),$(eval BUILT += .)printf '\033[K[%s] %s\r' $(words $(BUILT)) "$(1)",echo "  $(1)")
over  = $(if $(MAKE_TERMOUT),printf '\033[K',:)
whole = -o $@.new && mv $@.new $@# a script that runs meanwhile finds the old one or the new one
ALL_CORES = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
comma   := ,
.DEFAULT_GOAL := help
.PHONY: help deps build cuda cuda-report demo figures results ladder train train-dense train-cuda experiments experiments-report experiments-cost test test-all parts test-full test-faults check-programs test-simt test-race test-race-barriers test-cuda check-cuda-programs gpu gpu-pack bench-cpu test-mutants test-asan soak fuzz install wheel uninstall clean FORCE

help:
	@echo "MiniMax Sparse Attention: reference in C, kernels for Hopper, a book"
	@echo
	@sed -nE 's/^([a-z-]+):.*## /\1|/p' Makefile book/book.mk book/exercises/exercises.mk | while IFS='|' read -r t d; do printf '  make %-12s %s\n' "$$t" "$$d"; done
	@echo
	@echo "found here:"
	@printf '  %-10s %s\n' cc "$$($(CC) --version 2>/dev/null | head -n 1)"
	@printf '  %-10s %s\n' c++ "$(if $(CXX17),$$($(CXX) --version 2>/dev/null | head -n 1),no: the CPU engine is not tested)"
	@printf '  %-10s %s\n' OpenMP "$(if $(OPENMP),yes,no: one thread)"
	@printf '  %-10s %s\n' OpenBLAS "$(if $(OPENBLAS),$(shell pkg-config --modversion openblas 2>/dev/null),no: plain loops instead)"
	@printf '  %-10s %s\n' libpng "$(if $(PNG),$(shell pkg-config --modversion libpng 2>/dev/null),no: pictures as PPM)"
	@printf '  %-10s %s\n' jansson "$(if $(JSON),$(shell pkg-config --modversion jansson 2>/dev/null),no: train generate layer inspect and dump --model are left out)"
	@printf '  %-10s %s\n' MPI "$(if $(MPI),$(shell pkg-config --modversion $(MPI) 2>/dev/null),no: no build/msa-mpi; --ranks are threads)"
	@printf '  %-10s %s\n' nvcc "$(if $(NVCC_VERSION),$(NVCC_VERSION)$(if $(NVCC_NEW),,: left alone$(comma) 12.4 or newer is needed),no)"
	@printf '  %-10s %s\n' NCCL "$(if $(NCCL),yes: make cuda puts it into build/msa-mpi,no: GPUs of several processes do not work together)"
	@printf '  %-10s %s\n' GPU "$$( (nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || echo no) | head -n 1)"

# ---- Packages -----------------------------------------------------------------------------------
PACKAGES := gcc g++ libc6-dev make pkg-config libopenblas-dev libpng-dev libjansson-dev bible-kjv
deps: ## install the distribution packages that are missing (DEPS=0: only name them)
	@.ci/deps $(DEPS) $(PACKAGES)

# ---- Build --------------------------------------------------------------------------------------
build: $(B)/msa $(if $(MPI),$(B)/msa-mpi) $(B)/libmsa.a $(B)/libmsa.so $(if $(CUDA_OBJ),$(B)/libmsa_cuda.a $(B)/libmsa_cuda.so) ## build/msa, the libraries build/libmsa.{a,so} and, with the kernels, build/libmsa_cuda.{a,so}
	@$(over)

# What is done again in double meets the same logit twice, and it has to be the same number: large ones differ by more
# than any exponential can hold when one is fused and the other is not.
$(patsubst %.c,$(B)/%.o,$(wildcard ref/fast/exact*.c)): private FASTFLAGS += -ffp-contract=off
# By these models were trained, whose results are stored: the same bits on every machine.
$(B)/ref/fast/index_selectors.o: private FASTFLAGS :=
$(B)/ref/fast/amx.o $(B)/tests/test_amx.o: private FOUND += $(if $(TILES),-DHAVE_TILES)
$(B)/%.tiles.o: %.c $(B)/flags
	@$(call say,cc $< (tiles))
	$(Q)$(CC) $(ALLFLAGS) $(FASTFLAGS) -march=x86-64-v4 -DTILES -c $< -o $@
$(B)/ref/fast/%.o: ref/fast/%.c $(B)/flags
	@$(call say,cc $<)
	$(Q)$(CC) $(ALLFLAGS) $(FASTFLAGS) -c $< -o $@
$(B)/%.o: %.c $(B)/flags
	@$(call say,cc $<)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
# Kernels and the CPU engine that runs them: C++17, no CUDA needed. (-Wno-psabi: g++ would remark that it
# passes tensor maps otherwise than GCC 4.5 did.)
CXXFLAGS ?= -O1 -g1# a kernel spends its time in the engine, which is built with -O3
# What a kernel has not set must not happen to be zero: the engine knows this pattern.
UNSET := $(if $(call compiles_cxx,-ftrivial-auto-var-init=pattern),-ftrivial-auto-var-init=pattern)
ALLCXXFLAGS = -std=c++17 -Wall -Wextra -Wno-psabi $(ONLY_OURS) $(CXXFLAGS) $(SAN) -fPIC -I. $(if $(OPENMP_CXX),-fopenmp,-Wno-unknown-pragmas) -MMD -MP
$(B)/cuda/%.o: cuda/%.cpp $(B)/flags
	@$(call say,c++ $<)
	$(Q)$(CXX) $(ALLCXXFLAGS) -O3 -c $< -o $@
$(B)/cuda/%.o: cuda/%.cu $(B)/flags
	@$(call say,c++ $<)
	$(Q)$(CXX) $(ALLCXXFLAGS) $(UNSET) -x c++ -c $< -o $@
$(B)/cuda/%.gpu.o: cuda/%.cu cuda/kernels.def cuda/kernel.sed cuda/nvcc.sh $(KERNEL_HEADERS)
	@$(call say,nvcc $<)
	$(Q)NVCC="$(NVCC)" cuda/nvcc.sh $< $@
$(B)/tests/%.o: tests/%.cpp $(B)/flags
	@$(call say,c++ $<)
	$(Q)$(CXX) $(ALLCXXFLAGS) $(UNSET) -c $< -o $@
# The kernels of a test, for both sides.
$(B)/tests/%.o: tests/%.cu $(B)/flags
	@$(call say,c++ $<)
	$(Q)$(CXX) $(ALLCXXFLAGS) $(UNSET) -x c++ -c $< -o $@
$(B)/tests/%.gpu.o: tests/%.cu tests/device/side.cuh tests/device/instructions.h cuda/nvcc.sh $(KERNEL_HEADERS)
	@$(call say,nvcc $<)
	$(Q)NVCC="$(NVCC)" cuda/nvcc.sh $< $@
PROBES := instructions measurements
$(B)/tests/test_instructions: $(PROBES:%=$(B)/tests/device/%.o) $(if $(CUDA),$(PROBES:%=$(B)/tests/device/%.gpu.o))
# Every tile instruction, in both bodies.
$(B)/tests/support/steps_amx.o: private CFLAGS += $(FASTFLAGS)
$(B)/tests/test_amx: $(B)/tests/support/steps_amx.o $(if $(TILES),$(B)/tests/support/steps_amx.tiles.o)
$(B)/tests/test_simt: $(B)/tests/test_simt.o $(SIMT_OBJ) $(B)/tests/support/tap.o # the engine alone
	$(Q)$(CXX) $(LINKFLAGS) $^ -o $@
# The libraries show msa_* and nothing else: a caller may have a softmax_row of its own. A static one is a single
# object in which all other names are local. Groups are dissolved in it: the caller's linker would drop a template
# that it has seen elsewhere, and what is local cannot be taken from there.
RELINK := $(shell command -v $(OBJCOPY) >/dev/null && $(LD) --help 2>/dev/null | grep -q force-group-allocation && echo 1)
$(B)/%.a:
	@rm -f $@ && mkdir -p $(@D) && echo "  ar $@"
	$(Q)$(if $(RELINK),$(LD) -r --force-group-allocation $^ -o $(@:.a=.o) && \
	  $(OBJCOPY) --wildcard --keep-global-symbol='msa_*' $(@:.a=.o) && ar qcs $@ $(@:.a=.o),\
	  echo "  $@ shows all its names: that takes objcopy and a linker with --force-group-allocation" && ar qcs $@ $^)
$(B)/libmsa.a: $(LIB_OBJ)
$(B)/libmsa_cuda.a: $(CUDA_OBJ)
# The file that a program asks for when it starts lies beside the one that it is linked with.
SHARED = -shared -Wl,-soname,$(@F).$(SOVERSION),--version-script=ref/libmsa.map
$(B)/libmsa.so: $(LIB_OBJ) ref/libmsa.map
	$(Q)$(CC) $(LINKFLAGS) $(SHARED) $(LIB_OBJ) $(LIBS) $(whole)
	@ln -sf $(@F) $@.$(SOVERSION)
$(B)/libmsa_cuda.so: $(CUDA_OBJ) $(B)/libmsa.so
	$(Q)$(CXX) $(LINKFLAGS) $(SHARED) -Wl,-rpath,'$$ORIGIN' $^ $(if $(CUDA),$(CUDALIBS)) $(whole)
	@ln -sf $(@F) $@.$(SOVERSION)
# The program without kernels, which the demo needs none of: nobody is to wait for them.
$(B)/sideless/msa: $(filter-out $(SIDELESS:%=$(B)/%),$(APP_OBJ)) $(SIDELESS:%=$(B)/sideless/%) $(LIB_OBJ)
	$(Q)$(CC) $(LINKFLAGS) $^ $(filter-out $(LIBS) $(CUDALIBS),$(APPLIBS)) $(if $(OPENBLAS),-ldl -lpthread) -lm $(whole)
$(B)/sideless/%.o: %.c $(B)/flags
	@$(call say,cc $<)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
# Without OpenBLAS, which ref/cli/blas.c loads.
$(B)/ref/cli/blas.o: private FOUND += -DOPENBLAS_DIR='"$(shell pkg-config --variable=libdir openblas)"'
$(B)/msa: $(APP_OBJ) $(SIDE_OBJ) $(LIB_OBJ)
	$(Q)$(LINK) $(LINKFLAGS) $^ $(filter-out $(LIBS),$(APPLIBS)) $(if $(OPENBLAS),-ldl -lpthread) -lm $(whole)
# The same program as one of the processes that mpirun starts.
$(B)/ref/parallel/mpi/%.o: private FOUND += $(shell pkg-config --cflags $(MPI) 2>/dev/null)
ON_GPUS = $(if $(CUDA),$(NCCL))
$(B)/cuda/parallel/nccl/%.o: private FOUND += $(NCCLFLAGS)
$(B)/msa-mpi: $(filter-out %/parallel/world.o,$(APP_OBJ)) $(patsubst %.c,$(B)/%.o,$(wildcard ref/parallel/mpi/*.c)) $(if $(ON_GPUS),$(B)/cuda/parallel/nccl/wire.o) \
              $(if $(ON_GPUS),$(filter-out %/no_nccl.o,$(SIDE_OBJ)),$(SIDE_OBJ)) $(LIB_OBJ)
	$(Q)$(LINK) $(LINKFLAGS) $^ $(filter-out $(LIBS),$(APPLIBS)) $(shell pkg-config --libs $(MPI)) $(if $(ON_GPUS),$(NCCLLIBS)) $(if $(OPENBLAS),-ldl -lpthread) -lm $(whole)
# No kernel is left out of its table.
$(B)/msa $(B)/headless.o: | $(B)/listed
$(B)/listed: .ci/listed $(KERNELS) cuda/kernels.def cuda/kernel.sed ref/fast/kernels.def $(wildcard ref/fast/*.c)
	@mkdir -p $(@D) && .ci/listed && touch $@
# The program without its main, for the many that test it and the book's: one object, without the lines, which take
# most of a linker's time (the sanitizers and who steps through it want them).
WHOLE = @mkdir -p $(@D) && $(LD) -r $(if $(SAN)$(filter -g,$(CFLAGS)),,--strip-debug) $^ -o $@
$(B)/headless.o: $(HEADLESS_OBJ) $(SIDE_OBJ) $(LIB_OBJ)
	$(WHOLE)
$(B)/tests/%: $(B)/tests/%.o $(T_SUPPORT:%.c=$(B)/%.o) $(B)/headless.o
	$(Q)$(LINK) $(LINKFLAGS) $^ $(APPLIBS) -o $@
WITH_SIDES := $(patsubst %.c,$(B)/%.o,$(filter %.c,$(ASKS_SIDES)))
$(WITH_SIDES): private FOUND += $(SIDES)# private: flags, on which they depend, is not to know
CXX_SIDES := $(patsubst %.cpp,$(B)/%.o,$(filter %.cpp,$(ASKS_SIDES)))
$(WITH_SIDES) $(CXX_SIDES): $(B)/sides
$(CXX_SIDES): private CXXFLAGS += $(SIDES)
# Kernels that this nvcc spoils, which the table leaves out: cuda/nvcc.sh says which and why, cuda/dropped.sh what else goes with them.
ifneq ($(CUDA),)
$(B)/ref/table/table.o: $(B)/cuda/dropped.inc
$(B)/cuda/dropped.inc: $(KERNELS:%.cu=$(B)/%.gpu.o) cuda/dropped.sh
	@cuda/dropped.sh $$(find $(B)/cuda -name '*.gpu.o.dropped' | sort) > $@
endif

# The page of `msa dump` goes into the program as a C array.
$(B)/ref/picture/viewer.o: $(B)/ref/picture/viewer.inc
$(B)/ref/picture/viewer.inc: ref/picture/viewer.html
	@mkdir -p $(@D)
	$(Q)od -An -v -tu1 $< | sed 's/[0-9][0-9]*/&,/g' > $@

# The clocks of the kernels' inner loops, which `cuda/clocks.sh build csv` writes after make cuda.
$(B)/ref/cli/timeline_predict.o: $(B)/ref/cli/clocks.inc
$(B)/ref/cli/clocks.inc: cuda/clocks.csv
	@mkdir -p $(@D)
	$(Q)awk -F, 'NR > 1 {printf "{\"%s\", %s, %s, %s, %s, %s, \"%s\", %s},\n", $$1, $$2, $$3, $$4, $$5, $$6, $$7, $$8}' $< > $@

cuda: ## compile the kernels for sm_90a too (CUDA 12.4 or newer) and link them into build/msa
	@$(if $(NVCC_NEW),,echo "make cuda: expected nvcc 12.4 or newer, found $(or $(NVCC_VERSION),none)" >&2; exit 2)
	+@$(ALL_CORES) build CUDA=1

cuda-report: cuda ## registers, shared memory, spills and key instructions of every kernel; clocks of the inner loops against their design
	@cuda/report.sh $(B) && echo && cuda/clocks.sh $(B)

# What is being timed, for the files of `msa bench`; COMMIT=... where there is no repository.
COMMIT ?= $(or $(shell data/commit.sh 2>/dev/null),unknown)
$(B)/ref/cli/bench_results.o: $(B)/commit.inc
$(B)/commit.inc: FORCE
	@mkdir -p $(@D)
	@echo '#define MSA_COMMIT "$(COMMIT)"' | cmp -s - $@ || echo '#define MSA_COMMIT "$(COMMIT)"' > $@

# ---- See it work --------------------------------------------------------------------------------
MODEL := data/kjv-msa.safetensors
TWIN  := data/kjv-gqa.safetensors

demo: deps ## on a real text: what MSA selects, loses and saves; pictures in figures/
	+@$(ALL_CORES) $(B)/sideless/msa && $(over)
	@data/text.sh $(B) > $(B)/text
	@$(B)/sideless/msa demo --model $(MODEL) --twin $(TWIN) --text $$(cat $(B)/text) \
	  $$(grep -q kjv $(B)/text && echo --held-out) --out figures

figures: build ## rebuild the pictures of figures/gallery
	@data/text.sh $(B) kjv > $(B)/text
	@figures/gallery.sh $(B)

ladder: deps ## sparse attention on this CPU, from naive loops to bf16 tiles, each against the product of its type; draws build/ladder.svg
	+@$(ALL_CORES) build
	$(B)/msa bench sparse --backend fast --shape 'T=1024 S=16384 heads=16:1' --seconds 4 --picture $(B)/ladder.svg

train: deps ## train the shipped model again, into build/train (about 25 minutes on two cores)
	+@$(ALL_CORES) build
	@data/text.sh $(B) kjv > $(B)/text
	@mkdir -p $(B)/train
	$(B)/msa train --text $$(cat $(B)/text) --out $(B)/train/kjv-msa.safetensors

train-dense: deps ## train its dense twin, with the same budget
	+@$(ALL_CORES) build
	@data/text.sh $(B) kjv > $(B)/text
	@mkdir -p $(B)/train
	$(B)/msa train --attention gqa --text $$(cat $(B)/text) --out $(B)/train/kjv-gqa.safetensors

# 20 times as many parameters, 8 times the context. LARGE_BACKEND=fast runs it without a GPU, in hours; LARGE_STEPS=1
# tries it. Projections and the MLP are the host's.
LARGE_BACKEND ?= cuda
LARGE_STEPS   ?= 600
LARGE := --layers 8 --d-model 512 --heads 8 --kv-heads 2 --d-head 64 --d-index 64 --d-ff 1408 --block 128 --topk 16 \
         --context 8192 --batch 1 --steps $(LARGE_STEPS) --lr 1e-3 --lr-end 1e-4 --save-every 50
train-cuda: deps ## on a GPU: a model 20 times the shipped one at a context of 8192 and its dense twin, into build/train
	@$(if $(filter cuda,$(LARGE_BACKEND)),$(if $(NVCC_NEW),,echo "make train-cuda: expected nvcc 12.4 or newer$(comma) found $(or $(NVCC_VERSION),none)" >&2; exit 2))
	+@$(ALL_CORES) build $(if $(filter cuda,$(LARGE_BACKEND)),CUDA=1)
	@data/text.sh $(B) kjv > $(B)/text
	@mkdir -p $(B)/train
	$(B)/msa train --backend $(LARGE_BACKEND) $(LARGE) --index-warmup $$(($(LARGE_STEPS) / 6)) --text $$(cat $(B)/text) --out $(B)/train/large-msa.safetensors
	$(B)/msa train --backend $(LARGE_BACKEND) $(LARGE) --attention gqa --text $$(cat $(B)/text) --out $(B)/train/large-gqa.safetensors
	$(B)/msa evaluate --model $(B)/train/large-msa.safetensors --text $$(cat $(B)/text) --held-out --windows 20 --recall-windows 2
	$(B)/msa evaluate --model $(B)/train/large-gqa.safetensors --text $$(cat $(B)/text) --held-out --windows 20
	$(B)/msa dump --model $(B)/train/large-msa.safetensors --text $$(cat $(B)/text) --out $(B)/train/large

# The paper's claims, re-run small: data/experiments. Interrupted, it goes on where it was. JOBS=1: one model at a time.
EXPERIMENTS = $(if $(QUICK),data/experiments/quick.conf $(B)/quick,data/experiments/small.conf data/experiments)
experiments: deps ## the paper's claims re-run small, into data/experiments (more than four hours; QUICK=1: five minutes)
	+@$(ALL_CORES) build
	@MSA=$(B)/msa B=$(B) COMMIT=$(COMMIT) data/experiments/run.sh run $(EXPERIMENTS)
	@$(if $(QUICK),,MSA=$(B)/msa B=$(B) data/experiments/maps.sh $(B))
	@$(MAKE) --no-print-directory experiments-report QUICK=$(QUICK)

experiments-report: ## only the tables and figures of the experiments, from their CSV files
	@data/experiments/report.sh $(lastword $(EXPERIMENTS)) $(if $(QUICK),$(B)/quick,figures/experiments) > $(B)/experiments.md
	@cp $(B)/experiments.md $(lastword $(EXPERIMENTS))/README.md && echo "wrote $(lastword $(EXPERIMENTS))/README.md"

experiments-cost: build ## time of dense attention and MSA on this CPU by length, into data/experiments/cost.csv; needs a quiet machine
	@MSA=$(B)/msa COMMIT=$(COMMIT) data/experiments/cost.sh data/experiments/cost.csv
	@$(MAKE) --no-print-directory experiments-report

# ---- Tests --------------------------------------------------------------------------------------
T_LONG   := $(B)/tests/test_kernels tests/test_exercises.sh# which the others are not to wait for
T_SCRIPT := $(filter-out tests/test_race.sh,$(wildcard tests/test_*.sh)) $(if $(SAN),,tests/device/cuda.sh)

test: deps ## build and pass every test that this machine can run
	+@$(ALL_CORES) build check-programs && $(over)
	@MSA=$(B)/msa B=$(B) CC="$(CC)" CXX="$(CXX)" NVCC="$(NVCC)" tests/run.sh $(T_LONG) $(filter-out $(T_LONG),$(T_BIN) $(T_CXX) $(T_SCRIPT))

# What tests/test_faults.sh loads before the program; sanitizers come before everything themselves.
$(B)/tests/faults.so: $(wildcard tests/faults/*) $(B)/flags
	@$(call say,cc tests/faults)
	$(Q)$(CC) $(filter-out -Wpedantic -Wconversion,$(STRICT)) -O1 -fPIC -shared $(filter %.c,$^) -ldl -o $@

check-programs: $(if $(SAN),,$(B)/tests/faults.so) $(T_BIN) $(T_CXX) exercise-programs book-programs

# What make test leaves to make test-all, each in so many shares: .ci/run takes some, others for each commit.
PARTS := test-full:12 test-mutants:32 test-race:12 test-faults:6 test-asan:8 soak:1
SHARE ?= 1/1
parts: # make target and share, a line each
	@for part in $(PARTS); do for i in $$(seq $${part#*:}); do echo "$${part%:*} $$i/$${part#*:}"; done; done
test-all: test $(foreach part,$(PARTS),$(firstword $(subst :, ,$(part)))) ## all of that with nothing left out, mutants, races, faults, sanitizers (hours)

# The programs that leave something out by default; of test_kernels every kernel, one at a time.
FULL_TESTS = $(filter-out %/test_kernels %_faults.sh,$(patsubst %.cpp,$(B)/%,$(patsubst %.c,$(B)/%,$(shell grep -l 'tap_full\|{FULL' $(T_SRC) $(wildcard tests/test_*.cpp tests/test_*.sh)))))
RUNGS    = $(shell sed -nE 's/^(KERNEL|BEST).(\w+), (\w+),.*/\2\/\3/p' cuda/kernels.def)
test-full: ## nothing left out: all shapes in all orders, long inputs
	+@$(ALL_CORES) build check-programs FULL=1
	@MSA=$(B)/msa B=$(B) FULL=1 SHARE=$(SHARE) tests/run.sh $(FULL_TESTS) $(foreach k,- $(RUNGS),"$(B)/tests/test_kernels 1 $(k)")

test-mutants: build check-programs ## all wrong variants of code and kernels that the tests must catch
	@B=$(B) SHARE=1/1 PIECE=$(SHARE) tests/run.sh tests/mutants/code.sh tests/mutants/kernels.sh

test-faults: build $(addprefix $(B)/tests/,faults.so test_io_npy test_io_safetensors test_io_picture test_model) ## every fault of the machine in every command
	@MSA=$(B)/msa B=$(B) FULL=1 SHARE=1/1 PIECE=$(SHARE) tests/run.sh tests/test_faults.sh

# Not with -O2: under both sanitizers g++ 12 then lets sparse/kv_outer read another element of an array.
test-asan: deps ## make test under AddressSanitizer and UBSan
	@SHARE=$(SHARE) $(MAKE) --no-print-directory test DEPS=0 B=build/asan CFLAGS="-O1 -g" CXXFLAGS="-O1 -g" ARCH=x86-64 \
	  SAN="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"

test-simt: $(B)/tests/test_simt $(B)/race/libsimt.so ## only the CPU engine's own tests
	@B=$(B) CXX="$(CXX)" NVCC="$(NVCC)" tests/run.sh $(B)/tests/test_simt tests/test_ptx.sh tests/test_race.sh

# Kernels with ThreadSanitizer, the engine beside them without: cuda/simt/tsan.h says why.
TSANFLAGS = -std=c++17 -Wno-psabi -Wno-unknown-pragmas -g -fPIC -I. -MMD -MP
$(B)/race/libsimt.so: $(wildcard cuda/simt/*)
	@$(call say,c++ cuda/simt for ThreadSanitizer)
	$(Q)$(CXX) $(TSANFLAGS) -O2 -DMSA_SIMT_TSAN -shared -Wl,-Bsymbolic $(filter %.cpp,$^) -o $@
$(B)/race/%.o: %.cu
	@$(call say,c++ $< with ThreadSanitizer)
	$(Q)$(CXX) $(TSANFLAGS) -O1 -fsanitize=thread -x c++ -c $< -o $@
$(B)/race/%.o: %.cpp
	@$(call say,c++ $< with ThreadSanitizer)
	$(Q)$(CXX) $(TSANFLAGS) -O1 -fsanitize=thread -c $< -o $@
$(B)/race/kernels: $(B)/race/tests/device/race_kernels.o $(ON_ENGINE:%.cu=$(B)/race/%.o) $(B)/race/libsimt.so $(B)/cuda/host/plan.o $(B)/tests/support/tap.o $(LIB_OBJ)
	$(Q)$(CXX) -fsanitize=thread $(if $(OPENMP),-fopenmp) $^ -Wl,-rpath,'$$ORIGIN' $(LIBS) -o $@

test-race-barriers: private RACES := tests/test_race.sh "$(B)/race/kernels backward/hopper" "$(B)/race/kernels decode/ dense/hopper sparse/union sparse/kv_outer"
test-race-barriers: build $(B)/race/kernels ## races in the kernels whose warpgroups meet at barriers, and in decode (minutes)
	$(RUN_RACES)
test-race: private RACES = tests/test_race.sh $(foreach k,$(filter-out dense_%,$(RUNGS)),"$(B)/race/kernels $(k)")
test-race: build $(B)/race/kernels ## races between threads of a block, all kernels, under ThreadSanitizer (half an hour)
	$(RUN_RACES)
define RUN_RACES
@echo called_from_lib:libsimt.so > $(B)/race/suppressions
@TSAN_OPTIONS="suppressions=$(B)/race/suppressions exitcode=66" B=$(B) CXX="$(CXX)" SHARE=$(SHARE) tests/run.sh $(RACES)
endef

# With nvcc, build for the GPU; without, the scripts are told why there is nothing to run.
FOR_CUDA = $(if $(NVCC_NEW),$(ALL_CORES) build $(1) CUDA=1,:)
NO_CUDA  = $(if $(NVCC_NEW),,expected nvcc 12.4 or newer$(comma) found $(or $(NVCC_VERSION),none))

test-cuda: build ## what needs a GPU: instructions, every kernel, the program, compute-sanitizer
	+@$(call FOR_CUDA,check-cuda-programs)
	@MSA=$(B)/msa B=$(B) NO_CUDA="$(NO_CUDA)" tests/run.sh tests/device/cuda.sh

check-cuda-programs: $(addprefix $(B)/tests/,test_instructions test_kernels test_padding test_decode test_prefill test_train_kernels)

# Without nvcc a program that was built before, or elsewhere, will do.
gpu: ## all that a Hopper GPU has to tell, the most valuable first, held against the targets: GPU_BUDGET=12 minutes; again, it goes on
	+@$(call FOR_CUDA,$(B)/tests/test_instructions)
	@MSA=$(B)/msa B=$(B) NO_CUDA="$(if $(wildcard $(B)/msa),,$(NO_CUDA))" data/bench/cuda.sh

gpu-pack: ## what make gpu needs on a machine that has the driver alone: build/msa-gpu.tar, for any x86-64 with AVX2
	@$(if $(NVCC_NEW),,echo "make gpu-pack: expected nvcc 12.4 or newer$(comma) found $(or $(NVCC_VERSION),none)" >&2; exit 2)
	+@$(ALL_CORES) build $(B)/tests/test_instructions CUDA=1 ARCH=x86-64-v3
	@B=$(B) data/bench/cuda_pack.sh

bench-cpu: build $(B)/tests/test_memory ## verify, then time the fast path on this CPU, float32 and bf16, into data/bench (an hour with tiles, more without)
	@B=$(B) MSA=$(B)/msa data/bench/cpu.sh

soak: build ## long versions: training killed and resumed 100 times, a stored row of the experiments trained again
	@MSA=$(B)/msa KILLS=100 tests/run.sh tests/test_resume.sh
	@MSA=$(B)/msa data/experiments/run.sh check data/experiments/small.conf data/experiments text dense 1

fuzz: ## coverage-guided fuzzing of the file readers, one minute each
	@B=$(B) tests/fuzz/run.sh 60

results: build ## the tables of README.md from data/bench
	@data/bench/report.sh $(B)/msa --store

# ---- The book -----------------------------------------------------------------------------------
include book/book.mk book/exercises/exercises.mk

# ---- Install ------------------------------------------------------------------------------------
INSTALL = B="$(B)" VERSION=$(VERSION) SOVERSION=$(SOVERSION) DESTDIR='$(subst ','\'',$(DESTDIR))' PREFIX='$(subst ','\'',$(PREFIX))' .ci/install
install: build ## headers, libraries, program, Python package and pkg-config files under PREFIX
	@LIBS="$(LIBS) $(if $(OPENMP),-fopenmp)" CUDALIBS="$(if $(CUDA_OBJ),-lstdc++) $(if $(CUDA),$(CUDALIBS))" $(INSTALL) $(if $(CUDA_OBJ),cuda)
wheel: $(B)/libmsa.so ## the Python package with the library, a file for pip, in build/wheel
	@MSA_LIBRARY="$(abspath $<)" .ci/wheel "$(B)/wheel"
uninstall: ## what make install put there
	@$(INSTALL) remove

clean: ## remove build/ and the demo's output
	rm -rf build figures/*.png figures/*.ppm figures/*.npy figures/index.html figures/*.sha256

# A change of compiler or flags rebuilds everything.
$(B)/flags: FORCE
	@mkdir -p $(B)
	@echo '$(CC) $(ALLFLAGS) $(FASTFLAGS) $(CXX) $(ALLCXXFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALLFLAGS) $(FASTFLAGS) $(CXX) $(ALLCXXFLAGS)' > $@
$(B)/sides: FORCE
	@mkdir -p $(B)
	@echo '$(SIDES)' | cmp -s - $@ || echo '$(SIDES)' > $@
FORCE:
.SECONDARY:
-include $(shell find $(B) -name '*.d' 2>/dev/null)

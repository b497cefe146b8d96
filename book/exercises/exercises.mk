# The exercises of the book, for the Makefile. Each is three programs that share one check: the stub, the
# solution, and mine, the student's copy, which git ignores and nothing here overwrites or deletes. A kernel
# (.cu) runs on the engine, and in builds by "make cuda" on a GPU too.
EX       := book/exercises
EX_C     := $(patsubst $(EX)/%/stub.c,%,$(wildcard $(EX)/[0-9]*/stub.c))
EX_CU    := $(if $(CXX17),$(patsubst $(EX)/%/stub.cu,%,$(wildcard $(EX)/[0-9]*/stub.cu)))
EX_B     := $(B)/exercises

# What watches an answer, and only that: the sanitizers one in C, access.c a kernel's ordinary loads and stores.
EX_SAN   := $(if $(SAN),,$(if $(call compiles,-fsanitize=address$(comma)undefined),-fsanitize=address$(comma)undefined))
# What an answer has not set must not happen to be zero.
EX_UNSET := $(if $(call compiles,-ftrivial-auto-var-init=pattern),-ftrivial-auto-var-init=pattern)
EX_FLAGS  = $(ALLFLAGS) -O1 -g $(EX_UNSET) -fno-omit-frame-pointer -U_FORTIFY_SOURCE $(if $(EX_SAN),$(EX_SAN) -fno-sanitize-recover=all)
# Copies and comparisons of memory stay calls in a kernel, which access.c sees; an index outside of a local array ends it.
EX_CALLS := memcpy memmove memcmp memset
EX_BOUNDS := $(if $(call compiles_cxx,-fsanitize=bounds -fsanitize-undefined-trap-on-error),-fsanitize=bounds -fsanitize-undefined-trap-on-error)
# What calls pass by value ThreadSanitizer does not see: the compiler lists it for admit.sh, where it can.
EX_LISTS := $(call compiles_cxx,-fdump-tree-optimized-lineno=/dev/null)
EX_LIST   = $(if $(EX_LISTS),-fdump-tree-optimized-lineno=$@.gimple)
EX_CXX    = $(filter-out $(SAN),$(ALLCXXFLAGS)) $(EX_UNSET) -g -U_FORTIFY_SOURCE -fsanitize=thread $(EX_BOUNDS) \
  $(foreach f,$(EX_CALLS),-fno-builtin-$f -D__builtin_$f=$f) -include cstring -x c++
EX_HELP  := $(patsubst $(EX)/%.c,$(EX_B)/%.o,$(EX)/exercise.c $(wildcard $(EX)/answer*.c))
EX_KERNEL := $(EX_HELP) $(patsubst $(EX)/%.c,$(EX_B)/%.o,$(EX)/access.c $(wildcard $(EX)/kernel*.c))

$(EX_B)/unit.o: private ALLFLAGS += $(FASTFLAGS)# vectors, as in amx.h
$(EX_B)/%.o: $(EX)/%.c $(EX)/exercises.mk $(B)/flags
	@$(call say,cc $<)
	$(Q)$(CC) $(if $(filter stub mine solution,$(notdir $*)),$(EX_FLAGS),$(ALLFLAGS) $(if $(SAN),-DSANITIZED)) -c $< -o $@
$(EX_B)/%.o: $(EX)/%.cu $(EX)/exercises.mk $(B)/flags
	@$(call say,c++ $<)
	$(Q)$(CXX) $(EX_CXX) $(EX_LIST) -c $< -o $@
$(EX_B)/%.gpu.o: $(EX)/%.cu cuda/nvcc.sh $(KERNEL_HEADERS)
	@$(call say,nvcc $<)
	$(Q)NVCC="$(NVCC)" cuda/nvcc.sh $< $@

# The reference in a section of its own, which is closed in an answer's process (answer_child.c). So nothing of it
# may run where a program ends: sanitizers would, for each file.
$(EX_B)/reference.o: $(LIB_OBJ) $(EX)/exercises.mk
	@mkdir -p $(@D)
	$(Q)$(LD) -r $(LIB_OBJ) -o $@.whole && $(OBJCOPY) --wildcard -R '.fini_array*' -R '.rela.fini_array*' --rename-section .text=reference --set-section-alignment .text=4096 $@.whole $@

# EX_PROGRAM exercise, who, source, preprocessor, the rest of the program, flags
define EX_PROGRAM
$(EX_B)/$(1)/$(2).admitted.o: $(EX_B)/$(1)/$(2).o $(EX_B)/$(1)/stub.o $(if $(wildcard $(EX)/$(1)/uses),,$(EX_B)/$(1)/solution.o) $(EX)/admit.sh
	$(Q)PREPROCESS='$(4)' LD="$(LD)" OBJCOPY="$(OBJCOPY)" $(EX)/admit.sh $(3) $$< $$@
$(EX_B)/$(1)/$(2): $(EX_B)/$(1)/$(2).admitted.o $(EX_B)/$(1)/check.o $(5)
	$(Q)$(LINK) $(LINKFLAGS) -Wl,-z,now $(6) $$^ $(APPLIBS) -o $$@
endef
# An exercise in C needs no kernel, and one with a kernel none of the ladder or between ranks, whose entries then lie at
# address 0: nobody is to wait for them.
EX_APP    := $(filter-out $(SIDELESS:%=$(B)/%),$(HEADLESS_OBJ)) $(SIDELESS:%=$(B)/sideless/%)
EX_ENGINE := $(HEADLESS_OBJ) $(LIB_OBJ) $(if $(CUDA),$(SIDE_OBJ),$(filter-out $(KERNELS:%.cu=$(B)/%.o),$(SIDE_OBJ)))
ladder     = $(shell sed -nE 's/^(KERNEL|BEST).(\w+), (\w+),.*/-Wl,--defsym=$(1)_\2_\3=0/p' cuda/kernels.def) -Wl,--defsym=$(1)_parallel=0
EX_LADDER := $(if $(CUDA),,$(call ladder,simt))
$(EX_B)/app.o: $(EX_APP)
$(EX_B)/engine.o: $(EX_ENGINE)
$(EX_B)/app.o $(EX_B)/engine.o:
	$(WHOLE)
EX_CPP   := $(CC) $(filter-out -MMD -MP,$(EX_FLAGS)) -E
EX_CXXPP := $(CXX) $(filter-out -MMD -MP,$(EX_CXX)) -Wpedantic -E
ex_c  = $(call EX_PROGRAM,$(1),$(2),$(3),$(EX_CPP) $(4),$(EX_HELP) $(EX_B)/unit.o $(EX_B)/reference.o $(EX_B)/app.o,$(EX_SAN))
ex_cu = $(call EX_PROGRAM,$(1),$(2),$(3),$(EX_CXXPP) $(4),$(EX_KERNEL) $(5) $(EX_B)/engine.o,$(EX_LADDER))
$(foreach e,$(EX_C),$(foreach p,stub solution mine,$(eval $(call ex_c,$(e),$(p),$(EX)/$(e)/$(p).c))))
$(foreach e,$(EX_CU),$(foreach p,stub solution mine,$(eval $(call ex_cu,$(e),$(p),$(EX)/$(e)/$(p).cu,,$(if $(CUDA),$(EX_B)/$(e)/$(p).gpu.o)))))

# The reader's own MSA, which grows with the chapters: as an exercise, in nine steps. Mistakes in its solution are
# tests/own/*.sed, each of which tests/test_own.sh wants to be found.
OWN_WRONG := $(patsubst tests/own/%.sed,wrong_%,$(wildcard tests/own/*.sed))
ex_own = $(call EX_PROGRAM,own,$(1),$(2),$(EX_CPP) -I$(EX)/own,$(EX_B)/own/check_text.o $(EX_HELP) $(EX_B)/unit.o $(EX_B)/reference.o $(EX_B)/app.o,$(EX_SAN))
$(foreach p,stub solution mine,$(eval $(call ex_own,$(p),$(EX)/own/$(p).c)))
$(foreach p,$(OWN_WRONG),$(eval $(call ex_own,$(p),$(EX_B)/own/$(p).c)))
$(EX_B)/own/wrong_%.c: tests/own/%.sed $(EX)/own/solution.c
	@mkdir -p $(@D) && sed -f $^ > $@
$(OWN_WRONG:%=$(EX_B)/own/%.o): %.o: %.c $(EX)/exercises.mk $(B)/flags
	@echo "  answer $<"
	$(Q)$(CC) $(EX_FLAGS) -w -I$(EX)/own -c $< -o $@

# Answers that cheat or crash, tests/refused/NN_what: tests/test_exercises.sh wants each to be refused.
CHEATS   := $(wildcard tests/refused/*.c $(if $(CXX17),tests/refused/*.cu) $(if $(FULL),tests/refused_full/*.c $(if $(CXX17),tests/refused_full/*.cu)))
ex_of     = $(patsubst %/,%,$(subst $(EX)/,,$(wildcard $(EX)/$(firstword $(subst _, ,$(notdir $(1))))_*/)))
define EX_CHEAT
$(EX_B)/$(2)/$(basename $(notdir $(1))).o: $(1) $(EX)/exercises.mk $(B)/flags
	@mkdir -p $$(@D) && echo "  answer $$<"
	$(Q)$(if $(filter %.cu,$(1)),$(CXX) $(EX_CXX) $$(EX_LIST),$(CC) $(EX_FLAGS) -w) -I$(EX)/$(2) -c $$< -o $$@
$(call ex_$(patsubst .%,%,$(suffix $(1))),$(2),$(basename $(notdir $(1))),$(1),-I$(EX)/$(2),$(if $(CUDA),$(EX_B)/$(2)/stub.gpu.o))
endef
$(foreach f,$(CHEATS),$(eval $(call EX_CHEAT,$(f),$(call ex_of,$(f)))))
CHEAT_PROGRAMS := $(foreach f,$(CHEATS),$(EX_B)/$(call ex_of,$(f))/$(basename $(notdir $(f))))

# In a build for the engine alone, where nvcc is: one kernel with the GPU's side, to check that it can be linked.
EX_GPU := $(if $(and $(CXX17),$(NVCC_NEW)),$(if $(CUDA)$(SAN),,$(EX_B)/with_gpu))
EX_E := $(firstword $(EX_CU))
$(EX_B)/sides/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) -I$(EX_B)/sides $(ALLFLAGS) -DHAVE_SIMT -DHAVE_CUDA -c $< -o $@
$(EX_B)/sides/ref/table/table.o: $(EX_B)/sides/cuda/dropped.inc
$(EX_B)/sides/cuda/dropped.inc:# of no kernel of the ladder
	@mkdir -p $(@D) && : > $@
# Not build/cuda/host/gpu.gpu.o, by which make knows a build for the GPU.
$(EX_B)/sides/gpu.gpu.o: cuda/host/gpu.cu cuda/kernels.def cuda/nvcc.sh $(KERNEL_HEADERS)
	@$(call say,nvcc $<)
	$(Q)NVCC="$(NVCC)" cuda/nvcc.sh $< $@
EX_SIDES := cuda/host/host.o cuda/host/plan.o ref/table/table.o
$(EX_B)/with_gpu: $(EX_SIDES:%=$(EX_B)/sides/%) $(EX_B)/$(EX_E)/solution.admitted.o $(EX_B)/$(EX_E)/check.o $(EX_KERNEL) $(EX_B)/$(EX_E)/solution.gpu.o \
		$(EX_B)/sides/gpu.gpu.o $(filter-out $(EX_SIDES:%=$(B)/%),$(EX_ENGINE))
	$(Q)$(LINK) $(LINKFLAGS) $^ $(call ladder,cuda) $(call ladder,simt) $(CUDALIBS) $(APPLIBS) -o $@

.PHONY: exercise hint own progress scores exercises-check exercise-programs
N    ?=#                   which exercise
SEED ?=#                   of its inputs; without one, each run has other inputs, and its verdict names them
RESULT ?=#                   a file for the verdict, the seed and the counts, as one JSON object
STEP ?=#                   of make own: up to which
PROMPT ?=#                 of make own: what its model goes on from
DIR ?=#                   of make scores: a folder with the results of a class
# What a student types reaches the script as it was typed, whatever it would mean to make or to a shell.
unexport N SEED RESULT STEP PROMPT DIR
quoted = '$(subst ','\'',$(value $(1)))'
EXERCISE = MAKE="$(MAKE)" B="$(B)" CXX17="$(CXX17)" SEED=$(call quoted,SEED) RESULT=$(call quoted,RESULT) STEP=$(call quoted,STEP) PROMPT=$(call quoted,PROMPT) $(EX)/exercise.sh

exercise: ## N=03: build your answer to an exercise and judge it (SEED=7 replays, RESULT=FILE for scripts)
	@$(EXERCISE) run $(call quoted,N) || [ $$? -eq 1 ] # "not yet" is no error; exercise.sh itself ends with 1
hint: ## N=03: the next hint for an exercise
	@$(EXERCISE) hint $(call quoted,N)
own: ## STEP=3: judge the first steps of your own MSA, all without STEP (PROMPT="And God said": goes on from there)
	@$(EXERCISE) own || [ $$? -eq 1 ]
progress: ## all exercises, and how far you are
	@$(EXERCISE) progress
scores: ## DIR=results: a table of a class, from what grade.sh has written there, or from a folder of results a student
	@cat $(call quoted,DIR)/scores.txt # which cannot_scores has made
exercises-check: exercise-programs ## prove that every stub fails and every solution passes
	@B=$(B) NVCC="$(NVCC)" tests/run.sh tests/test_exercises.sh
exercise-programs: $(foreach e,$(EX_C) $(EX_CU),$(EX_B)/$(e)/stub $(EX_B)/$(e)/solution) $(patsubst %,$(EX_B)/own/%,stub solution $(OWN_WRONG)) $(CHEAT_PROGRAMS) $(EX_GPU)
class-solutions: $(foreach e,$(EX_C) $(EX_CU) own,$(EX_B)/$(e)/solution.o)# what they call: make class

# What cannot be done is said by make itself, in one line and with exit status 2: it adds a line to a recipe that fails.
# And by a target without one, which make does not name in front.
cannot_exercise = $(shell $(EXERCISE) ready $(call quoted,N) 2>&1 >/dev/null)
cannot_own      = $(shell $(EXERCISE) ready own 2>&1 >/dev/null)
cannot_hint     = $(shell $(EXERCISE) find $(call quoted,N) 2>&1 >/dev/null)
cannot_scores   = $(shell $(EX)/scores.sh $(call quoted,DIR) 2>&1 >/dev/null)
cannot_chapter  = $(if $(CHAPTER),,chapter: expected N=$(firstword $(CHAPTER_NUMBERS)) to N=$(lastword $(CHAPTER_NUMBERS)), found N=$(value N))
.PHONY: possible
exercise hint own scores chapter: possible
.SECONDEXPANSION:
possible: $$(foreach g,$$(filter exercise hint own scores chapter,$$(MAKECMDGOALS)),$$(if $$(cannot_$$(g)),$$(error $$(cannot_$$(g)))))

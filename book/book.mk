# The book, for the Makefile. A chapter is book/NN_name.md, or NNb_name.md if it stands beside another, a program
# book/examples/NN_name.c (if it brings kernels of its own, NN_name.cu beside it), what that prints (.out), and a figure
# with the program that draws it. Its questions are answered in book/answers/NN_name.md, with numbers that
# book/answers/NN_name.c prints; make book ANSWERS=0 leaves the answers out.
CHAPTERS := $(patsubst book/%.md,%,$(wildcard book/[0-9][0-9]*_*.md))
EXAMPLES := $(CHAPTERS:%=$(B)/examples/%)
DRAWINGS := $(CHAPTERS:%=$(B)/figures/%)
ANSWERERS := $(patsubst book/%.c,$(B)/%,$(wildcard book/answers/*.c))
BOOK_PACKAGES := doxygen doxygen-awesome-css nodejs katex clang lld wasi-libc
# Figures that book/lab makes live call the reference itself, compiled for the browser. The C library comes along, the
# compiler's own need not: nothing here takes more than 64 bits.
LAB := $(and $(wildcard book/lab/lab.c),$(shell command -v clang),$(shell command -v wasm-ld),$(wildcard /usr/lib/wasm32-wasi/libc.a),$(B)/lab/msa.wasm)
LAB_CALLS := malloc free msa_strerror msa_workspace msa_dense msa_index msa_index_lse msa_topk msa_sparse msa_block_mass \
             msa_recall_workspace
# What some of them show was recorded by a program beside them.
RECORDERS := $(patsubst book/%.c,$(B)/%,$(wildcard book/lab/[0-9]*.c))

CHAPTER_NUMBERS := $(foreach c,$(CHAPTERS),$(firstword $(subst _, ,$(c))))
# The one that N means, with or without a leading zero (exercises.mk ends where there is none).
CHAPTER = $(shell n=$(call quoted,N); for c in $(CHAPTERS); do case $$c in ("$$n"_* | "0$$n"_*) echo $$c ;; esac; done)

.PHONY: class class-solutions book book-pdf book-deps book-programs book-figures chapter
book-deps:
	@.ci/deps $(DEPS) $(BOOK_PACKAGES)

book: deps book-deps ## the book and the reference as a site: build/book/index.html
	+@$(ALL_CORES) book-programs
	@book/site/check_chapters.sh $(B)
	@book/site/build.sh $(B)

book-pdf: book ## the book as a PDF: build/book/book.pdf (needs chromium)
	@chromium=$$(command -v chromium || command -v chromium-browser) || { echo "make book-pdf: skipped: no chromium here"; exit 0; }; \
	  "$$chromium" --headless --no-sandbox --no-pdf-header-footer --print-to-pdf=$(B)/book/book.pdf "file://$(abspath $(B))/book/print.html" > /dev/null 2>&1 && \
	  echo "$(B)/book/book.pdf"

CLASS ?= $(B)/class#          where make class writes
class: deps book-deps ## what a class needs, in build/class or CLASS=DIR: exercises without solutions, judge, slides, plan; solutions apart
	+@$(ALL_CORES) class-solutions
	@book/class/make_class.sh $(B) '$(subst ','\'',$(CLASS))'

# Where the compiler has gone, so does the module that it left: embed.sh would take an earlier reference.
book-programs: $(EXAMPLES) $(DRAWINGS) $(ANSWERERS) $(LAB) $(if $(LAB),$(RECORDERS:%=%.data.js))
	@$(if $(LAB),,rm -f $(B)/lab/msa.wasm)

chapter: deps ## build and run a chapter's program: make chapter N=01
	@$(MAKE) --no-print-directory $(B)/examples/$(CHAPTER) && $(B)/examples/$(CHAPTER)

book-figures: book-programs ## draw the book's figures and store its outputs again
	@book/site/check_chapters.sh $(B) --store

$(B)/examples/%.o $(B)/figures/%.o $(B)/answers/%.o $(B)/lab/%.o: private ALLFLAGS += -Iref# private: flags, on which they depend, is not to know
$(B)/examples/%.o: book/examples/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/figures/%.o: book/figures/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/answers/%.o: book/answers/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/lab/%.o: book/lab/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/lab/%.data.js: $(B)/lab/%
	$(Q)$< > $@.new || { test $$? = 77 && : > $@.new; } # it has said what it misses here
	@mv $@.new $@
$(B)/examples/%.kernels.o: book/examples/%.cu $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(ALLCXXFLAGS) -x c++ -c $< -o $@
$(foreach c,$(CHAPTERS),$(if $(CXX17),$(if $(wildcard book/examples/$(c).cu),$(eval $(B)/examples/$(c) $(B)/figures/$(c) $(filter $(B)/lab/$(c),$(RECORDERS)): $(B)/examples/$(c).kernels.o))))
$(EXAMPLES) $(DRAWINGS) $(ANSWERERS) $(RECORDERS): %: %.o $(B)/headless.o
	$(Q)$(LINK) $(LINKFLAGS) $^ $(APPLIBS) -o $@

$(B)/lab/msa.wasm: book/lab/lab.c $(wildcard ref/*.c) $(addprefix ref/judge/,selections.c inputs.c) $(wildcard ref/*.h ref/*.def) $(addprefix book/,examples/example.h examples/orders.h book.mk)
	@mkdir -p $(@D) && $(call say,clang --target=wasm32 ref/*.c)
	$(Q)clang --target=wasm32-wasi --sysroot=/usr -mexec-model=reactor $(STRICT) -Wno-shorten-64-to-32 -Wno-unknown-pragmas -O2 -Iref $(filter %.c,$^) \
	  $(LAB_CALLS:%=-Wl,--export=%) -Wl,--strip-all -nodefaultlibs -lc -lm -o $@

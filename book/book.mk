# The book, for the Makefile. A chapter is book/NN_name.md, or NNb_name.md if it stands beside another, a program
# book/examples/NN_name.c (if it brings kernels of its own, NN_name.cu beside it), what that prints (.out), and a figure
# with the program that draws it. Its questions are answered in book/answers/NN_name.md, with numbers that
# book/answers/NN_name.c prints; make book ANSWERS=0 leaves the answers out.
CHAPTERS := $(patsubst book/%.md,%,$(wildcard book/[0-9][0-9]*_*.md))
EXAMPLES := $(CHAPTERS:%=$(B)/examples/%)
DRAWINGS := $(CHAPTERS:%=$(B)/figures/%)
ANSWERERS := $(patsubst book/%.c,$(B)/%,$(wildcard book/answers/*.c))
BOOK_PACKAGES := doxygen doxygen-awesome-css nodejs katex

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

book-programs: $(EXAMPLES) $(DRAWINGS) $(ANSWERERS)

chapter: deps ## build and run a chapter's program: make chapter N=01
	@$(MAKE) --no-print-directory $(B)/examples/$(CHAPTER) && $(B)/examples/$(CHAPTER)

book-figures: book-programs ## draw the book's figures and store its outputs again
	@book/site/check_chapters.sh $(B) --store

$(B)/examples/%.o $(B)/figures/%.o $(B)/answers/%.o: private ALLFLAGS += -Iref# private: flags, on which they depend, is not to know
$(B)/examples/%.o: book/examples/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/figures/%.o: book/figures/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/answers/%.o: book/answers/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@
$(B)/examples/%.kernels.o: book/examples/%.cu $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(ALLCXXFLAGS) -x c++ -c $< -o $@
$(foreach c,$(CHAPTERS),$(if $(CXX17),$(if $(wildcard book/examples/$(c).cu),$(eval $(B)/examples/$(c) $(B)/figures/$(c): $(B)/examples/$(c).kernels.o))))
$(EXAMPLES) $(DRAWINGS) $(ANSWERERS): %: %.o $(B)/headless.o
	$(Q)$(LINK) $(LINKFLAGS) $^ $(APPLIBS) -o $@

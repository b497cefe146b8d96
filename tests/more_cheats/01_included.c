/* wants: was not run, since it includes */
#include "task.h"
#include "../../../tests/more_cheats/01_text_without_ending"

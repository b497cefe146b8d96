/* wants: was not run, since it includes */
#include "task.h"
#include "../../../tests/refused_full/01_text_without_ending"

// The event parser of Debian's libyaml, used by the Documents target alone.
#include <yaml.h>

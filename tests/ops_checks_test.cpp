#include "ops_devices.h"

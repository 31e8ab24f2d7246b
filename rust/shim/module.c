// SPDX-License-Identifier: GPL-2.0

/* <linux/module.h> */
#include <linux/module.h>
#include "shim.h"

bool ksm_v_try_module_get(void)
{
	return try_module_get(THIS_MODULE);
}

void ksm_v_module_put(void)
{
	module_put(THIS_MODULE);
}

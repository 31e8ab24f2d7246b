// SPDX-License-Identifier: GPL-2.0

/* <linux/module.h> */
#include <linux/module.h>
#include "shim.h"

/* The macro module! has no field for the version. */
MODULE_VERSION(KSM_V_VERSION);

bool ksm_v_try_module_get(void)
{
	return try_module_get(THIS_MODULE);
}

void ksm_v_module_put(void)
{
	module_put(THIS_MODULE);
}

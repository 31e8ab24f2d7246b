// SPDX-License-Identifier: GPL-2.0

/* <linux/debugfs.h>: without debugfs these functions do nothing. */
#include "shim.h"
#include <linux/debugfs.h>

struct dentry *ksm_v_debugfs_create_dir(const char *name)
{
	return debugfs_create_dir(name, NULL);
}

void ksm_v_debugfs_create_file(const char *name, umode_t mode, struct dentry *parent,
			       void *data, const struct file_operations *fops)
{
	debugfs_create_file(name, mode, parent, data, fops);
}

void ksm_v_debugfs_remove(struct dentry *dentry)
{
	debugfs_remove(dentry);
}

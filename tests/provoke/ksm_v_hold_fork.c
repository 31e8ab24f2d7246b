// SPDX-License-Identifier: GPL-2.0
/*
 * Stops forks in the middle: in dup_mmap(), after the copy of all areas below a mapping
 * of the debugfs file ksm_v_hold_fork, and before the flush of the parent's TLBs.
 * Reading the file returns the number of stopped forks, writing lets them continue.
 */

#include <linux/debugfs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/wait.h>

static atomic_t held = ATOMIC_INIT(0);
/* How often forks were released. */
static atomic_t releases = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(waiting);

/* mremap() and splits also make a second mapping: these are not stopped. */
static void hold(struct vm_area_struct *vma)
{
	int before = atomic_read(&releases);

	if (vma->vm_mm == current->mm)
		return;
	atomic_inc(&held);
	wait_event_killable(waiting, atomic_read(&releases) != before);
	atomic_dec(&held);
}

static const struct vm_operations_struct hold_vm_ops = {
	.open = hold,
};

static int hold_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_ops = &hold_vm_ops;
	return 0;
}

static ssize_t hold_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	atomic_inc(&releases);
	wake_up_all(&waiting);
	return len;
}

static int hold_show(struct seq_file *seq, void *unused)
{
	seq_printf(seq, "%d\n", atomic_read(&held));
	return 0;
}

static int hold_open(struct inode *inode, struct file *file)
{
	return single_open(file, hold_show, NULL);
}

/* Mappings use the functions above, and pin the module through their file. */
static const struct file_operations hold_fops = {
	.owner = THIS_MODULE,
	.open = hold_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
	.write = hold_write,
	.mmap = hold_mmap,
};

static struct dentry *dentry;

static int __init hold_init(void)
{
	/* debugfs passes mmap() on only for files that it does not guard. */
	dentry = debugfs_create_file_unsafe("ksm_v_hold_fork", 0600, NULL, NULL, &hold_fops);
	return PTR_ERR_OR_ZERO(dentry);
}

static void __exit hold_exit(void)
{
	debugfs_remove(dentry);
}

module_init(hold_init);
module_exit(hold_exit);
MODULE_DESCRIPTION("Holds forks in the middle");
MODULE_LICENSE("GPL");

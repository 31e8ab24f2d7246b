// SPDX-License-Identifier: GPL-2.0

/*
 * Runs a program with all of its memory registered for merging:
 * usage: registered PROGRAM [ARG]...
 */

#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

int main(int argc, char **argv)
{
	if (argc < 2 || prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) {
		perror(argv[0]);
		return 1;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 1;
}

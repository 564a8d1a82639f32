// See main.c.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// One fact: a line. NAME and DETAIL by format; the verdict is one word.
void fact(const char *verdict, const char *detail, const char *name, ...) __attribute__((format(printf, 3, 4)));

// The word for a result: "done" if it is not negative, else the name of errno.
const char *word(long result);
const char *errno_name(int number);

// Does something in a child, so that nothing of it stays, and returns the word for what it returned; a child that is
// killed gives the signal's name, one that takes longer than two seconds "waits".
const char *apart(long (*attempt)(const void *), const void *argument);

// What a file holds, cut to the size of the room and ended with a NUL; its length, or -1.
long content(const char *path, char *room, size_t size);

void see(void);
void writes(void);
void calls(void);
void mounts(void);
void namespaces(void);
void devices(void);
void sockets(void);
void privileges(void);
void self(void);
void network(char **places);

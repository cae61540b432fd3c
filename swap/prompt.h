// The thread that owns the disk works for microseconds and waits for milliseconds, beside compute
// threads that keep every core busy. How soon it runs when a read has come back decides how long
// the disk stands idle.
#pragma once

namespace headrace::swap {

// Asks for short turns on the processor: the kernel then lets this thread run as soon as it wakes,
// and threads that it starts likewise. Needs no privilege; where the kernel (before 6.12) or a
// filter does not know of it, nothing changes.
void run_promptly();

}  // namespace headrace::swap

// Threads that are not to be interrupted: SIGINT and SIGTERM are for the one that waits for them.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace headrace {

// Holds back all signals of this thread while it lives; threads that are started meanwhile inherit
// that, and keep it.
class SignalsHeldBack {
 public:
  SignalsHeldBack() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsHeldBack() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeldBack(const SignalsHeldBack&) = delete;
  SignalsHeldBack& operator=(const SignalsHeldBack&) = delete;

 private:
  sigset_t before_;
};

}  // namespace headrace

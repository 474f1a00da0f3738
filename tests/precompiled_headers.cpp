// A program for the precompiled header that the tests share; it is never run.
int main() {}

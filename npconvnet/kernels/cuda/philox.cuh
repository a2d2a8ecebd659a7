// Random words made of a counter and a key, as in ../../randomness.py: Philox4x32-10 (Salmon, Moraes, Dror, Shaw:
// Parallel random numbers: as easy as 1, 2, 3; SC 2011), which is ten times this, with a key that goes up by fixed steps:
//     (a, b, c, d) = (high(M1 c) ^ b ^ key0, low(M1 c), high(M0 a) ^ d ^ key1, low(M0 a))     halves of products of 64 bits
// The counter is overwritten with the four words.

__device__ void philox(unsigned (&counter)[4], unsigned key0, unsigned key1) {
    auto& [a, b, c, d] = counter;
    for (int round = 0; round < 10; round++) {
        const unsigned long long first = 0xD2511F53ull * a, second = 0xCD9E8D57ull * c;
        a = (unsigned)(second >> 32) ^ b ^ key0, b = (unsigned)second;
        c = (unsigned)(first >> 32) ^ d ^ key1, d = (unsigned)first;
        key0 += 0x9E3779B9, key1 += 0xBB67AE85;
    }
}

# Turns the SPIR-V file IN into OUT, a list of 32-bit words for an initialiser.
file(READ ${IN} bytes HEX)
string(REGEX REPLACE "(..)(..)(..)(..)" "0x\\4\\3\\2\\1," words "${bytes}")
string(REGEX REPLACE "(0x........,0x........,0x........,0x........,0x........,0x........,0x........,0x........,)" "\\1\n" words "${words}")
file(WRITE ${OUT} "${words}\n")

# cmake -DIN=file -DOUT=file.inc -P embed.cmake: wraps a text file into one C++ raw string literal.
file(READ ${IN} text)
string(FIND "${text}" ")mesh~" clash)
if(NOT clash EQUAL -1)
  message(FATAL_ERROR "${IN} contains the end mark of the raw string")
endif()
get_filename_component(folder ${OUT} DIRECTORY)
file(MAKE_DIRECTORY ${folder})
file(WRITE ${OUT} "R\"mesh~(${text})mesh~\"\n")

"""The command line: it parses, prints and chooses exit codes, and decides nothing.

main        one command from argv to exit code; the only catcher of errors
app         the typer application: grammar and help of every verb
fast        the same grammar for the few hot verbs, without importing typer
call        what both parsers produce
verbs/      one short function per verb, called with an open volume
render      one value to text or to JSON
streams     standard input and output, and what happens when they break
exit_codes  error class to exit code, one table
demo        the lost update, shown without and with the library
"""

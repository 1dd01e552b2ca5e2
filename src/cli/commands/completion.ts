// hypeman completion: scripts that make shells complete our words. The scripts only ask us: what can stand where is known by complete.ts.

import { Argument, Command } from 'commander'
import { withExamples } from '../command.ts'
import { complete } from '../complete.ts'
import type { Cli } from '../context.ts'
import { write } from '../terminal.ts'

const bash = `# bash completion for hypeman
_hypeman() {
  local cur words=("\${COMP_WORDS[@]}") cword=$COMP_CWORD IFS=$'\\n'
  if declare -F _get_comp_words_by_ref >/dev/null; then _get_comp_words_by_ref -n : cur words cword; fi
  COMPREPLY=($(hypeman __complete -- "\${words[@]:1:cword}" 2>/dev/null))
  if declare -F __ltrim_colon_completions >/dev/null; then __ltrim_colon_completions "$cur"; fi
}
complete -o default -F _hypeman hypeman
`

const zsh = `#compdef hypeman
# zsh completion for hypeman
_hypeman() {
  local -a found
  found=("\${(@f)$(hypeman __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "\${found[1]}" ]]; then compadd -- "\${found[@]}"; else _files; fi
}
compdef _hypeman hypeman
`

const fish = `# fish completion for hypeman
function __hypeman_complete
  set -l before (commandline -opc)
  hypeman __complete -- $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c hypeman -f -a '(__hypeman_complete)'
complete -c hypeman -n '__fish_seen_subcommand_from cp import' -F
`

const scripts: Readonly<Record<string, string>> = { bash, zsh, fish }

export function completionCommand(cli: Cli): Command {
  const made = new Command('completion')
    .description('Print a script that completes commands, options and names in a shell')
    .addArgument(new Argument('<shell>', 'which shell').choices(Object.keys(scripts)))
    .action(async (shell: string) => await write(cli.terminal.stdout, scripts[shell] ?? ''))
  return withExamples(made, [
    ['source <(hypeman completion bash)', 'in ~/.bashrc'],
    ['source <(hypeman completion zsh)', 'in ~/.zshrc'],
    ['hypeman completion fish >~/.config/fish/completions/hypeman.fish', 'once'],
  ])
}

/** What the scripts call: the words so far, the unfinished one last; prints what it may become, one a line. */
export function completeCommand(cli: Cli): Command {
  return new Command('__complete').argument('[words...]').action(async (words: string[], _options: object, self: Command) => {
    const found = await complete(self.parent ?? self, words, async () => (await cli.session(self)).client)
    await write(cli.terminal.stdout, found.map((word) => `${word}\n`).join(''))
  })
}

# Completions of sidecar-init for fish. Made by scripts/completions from its --help.
complete -c sidecar-init -f
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a run -d 'run: as PID 1, or in the foreground'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a check -d 'judge a manifest, all problems at once; notes say'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a render -d 'print the pipelock.yaml a manifest gives'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a import -d 'print the manifest that allows what the files allow:'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a ca -d 'generate a CA pair, or check the one there'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a status -d 'what the running sidecar-init reports'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a watch -d 'what happens, as it happens: states, manifests,'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a grant -d 'HOST           allow a host for a time: edits the manifest, and waits'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a healthcheck -d '[NAME]   exit 0 when ready, for container probes; NAME: one'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a halt -d 'let nothing through, whatever happens'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a resume -d 'end the halt'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a reload -d 'read the manifest again'
complete -c sidecar-init -n "not __fish_seen_subcommand_from run check render import ca status watch grant healthcheck halt resume reload stop" -a stop -d 'end it'
complete -c sidecar-init -n "__fish_seen_subcommand_from check" -F
complete -c sidecar-init -n "__fish_seen_subcommand_from render" -F
complete -c sidecar-init -n "__fish_seen_subcommand_from import" -F
complete -c sidecar-init -n "__fish_seen_subcommand_from run check render grant" -l manifest -r -F
complete -c sidecar-init -n "__fish_seen_subcommand_from grant" -l for -x
complete -c sidecar-init -n "__fish_seen_subcommand_from grant" -l until -x
complete -c sidecar-init -n "__fish_seen_subcommand_from grant" -l passthrough
complete -c sidecar-init -n "__fish_seen_subcommand_from grant" -l revoke
complete -c sidecar-init -n "__fish_seen_subcommand_from grant" -l dry-run
complete -c sidecar-init -n "__fish_seen_subcommand_from status watch grant" -l export -x -a "(__fish_complete_directories)"
complete -c sidecar-init -n "__fish_seen_subcommand_from check" -l strict
complete -c sidecar-init -n "__fish_seen_subcommand_from run" -l daemon -r -F
complete -c sidecar-init -n "__fish_seen_subcommand_from import" -l from -x -a 'list pipelock squid claude-code sandbox-runtime openshell opensandbox harden-runner smolvm'
complete -c sidecar-init -n "__fish_seen_subcommand_from import" -l slug -x
complete -c sidecar-init -n "__fish_seen_subcommand_from run status watch grant healthcheck halt resume reload stop" -l run-dir -x -a "(__fish_complete_directories)"
complete -c sidecar-init -n "__fish_seen_subcommand_from run render ca" -l cert -r -F
complete -c sidecar-init -n "__fish_seen_subcommand_from run render ca" -l key -r -F
complete -c sidecar-init -n "__fish_seen_subcommand_from run" -l require-sandbox
complete -c sidecar-init -n "__fish_seen_subcommand_from status check watch run" -l json
complete -c sidecar-init -n "__fish_seen_subcommand_from status" -l wait-generation -x
complete -c sidecar-init -n "__fish_seen_subcommand_from status healthcheck grant halt resume reload stop" -l timeout -x
complete -c sidecar-init -n "__fish_seen_subcommand_from status" -l check
complete -c sidecar-init -n "__fish_seen_subcommand_from status" -l timeline
complete -c sidecar-init -n "__fish_seen_subcommand_from status" -l svg -r -F
complete -c sidecar-init -s h -l help -d "what there is"
complete -c sidecar-init -s V -l version -d "which build it is"

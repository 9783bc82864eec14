# Completions of sidecar-init for bash. Made by scripts/completions from its --help.
_sidecar_init() {
    local word=${COMP_WORDS[COMP_CWORD]} command=run each given files=
    local commands="run check render import ca status watch grant healthcheck halt resume reload stop"
    COMPREPLY=()
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    --manifest) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --for) :; return ;;
    --until) :; return ;;
    --export) mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
    --daemon) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --from) mapfile -t COMPREPLY < <(compgen -W "list pipelock squid claude-code sandbox-runtime openshell opensandbox harden-runner smolvm" -- "$word"); return ;;
    --slug) :; return ;;
    --run-dir) mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
    --cert) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --key) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --wait-generation) :; return ;;
    --timeout) :; return ;;
    --svg) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    esac
    given=$commands
    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case " $commands " in
        *" $each "*) command=$each given= && break ;;
        esac
    done
    case $command in
    run) given+=" --help --version --manifest --daemon --run-dir --cert --key --require-sandbox --json" ;;
    check) given+=" --help --version --manifest --strict --json" files=yes ;;
    render) given+=" --help --version --manifest --cert --key" files=yes ;;
    import) given+=" --help --version --from --slug" files=yes ;;
    ca) given+=" --help --version --cert --key" ;;
    status) given+=" --help --version --export --run-dir --json --wait-generation --timeout --check --timeline --svg" ;;
    watch) given+=" --help --version --export --run-dir --json" ;;
    grant) given+=" --help --version --manifest --for --until --passthrough --revoke --dry-run --export --run-dir --timeout" ;;
    healthcheck) given+=" --help --version --run-dir --timeout" ;;
    halt) given+=" --help --version --run-dir --timeout" ;;
    resume) given+=" --help --version --run-dir --timeout" ;;
    reload) given+=" --help --version --run-dir --timeout" ;;
    stop) given+=" --help --version --run-dir --timeout" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$given" -- "$word")
    [ -z "$files" ] || mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$word")
}
complete -o filenames -F _sidecar_init sidecar-init

defmodule Leash.Worker.Options do
  # The options of `Leash.Worker.start_link/1` in one place: types, defaults and documentation.
  # Also the checks that need the machine (is the executable there, can the directory be entered).
  @moduledoc false

  alias Leash.{Executable, Guard, Ladder, Limits, OptionsError, Schema}
  alias Leash.Probe.{HTTP, Health, Readiness}

  # execve(2): one argument or variable holds at most 32 pages (MAX_ARG_STRLEN), its NUL included.
  @longest_argument 131_071

  @options [
    command: [
      type: Schema.optional_text(),
      doc: "The program: a name to look up in `PATH`, or a path."
    ],
    args: [
      type:
        Schema.custom(
          &__MODULE__.arguments?/1,
          "a list of strings without NUL bytes",
          quote(do: [binary()])
        ),
      default: [],
      doc: "The arguments of the program. They may hold any bytes but NUL."
    ],
    shell: [
      type: Schema.optional_text(),
      doc: "A line, instead of `:command`, for `/bin/sh -c`, such as `\"producer | consumer\"`."
    ],
    name: [
      type:
        Schema.custom(
          &__MODULE__.name?/1,
          "a name as GenServer accepts it",
          quote(do: GenServer.name())
        ),
      doc: "Registers the process under this name."
    ],
    group: [type: Leash.Group.option(), doc: "The group that `Leash.stop_all/2` ends it with."],
    env: [
      type:
        Schema.custom(
          &__MODULE__.env?/1,
          "pairs of a name (no \"=\", no NUL, not LEASH_RUN) and a UTF-8 string or nil",
          quote(
            do: %{optional(String.t()) => String.t() | nil} | [{String.t(), String.t() | nil}]
          )
        ),
      default: [],
      doc:
        "Variables to set, or with `nil` to unset, on top of the VM's environment. An empty " <>
          "string is an empty value."
    ],
    cd: [type: Schema.optional_text(), doc: "The working directory."],
    arg0: [
      type: Schema.optional_text(),
      doc: "The name that the program sees as its own, instead of its path."
    ],
    stdin: [
      type: Schema.one_of([:null, :open, :pipe]),
      default: :null,
      doc:
        "`:pipe` makes `write/3` and `close_stdin/1` work. `:null` is an empty input. " <>
          "`:open` is an input that stays open and empty while the VM lives. It is for " <>
          "programs that stop at the end of their input (esbuild, tailwindcss and vite with " <>
          "`--watch`)."
    ],
    stdout: [
      type: Schema.target([:output, :null]),
      default: :output,
      doc:
        "`:output` goes to `:on_output`, `:null` to nowhere. The program itself appends to " <>
          "`{:file, path}`."
    ],
    stderr: [
      type: Schema.target([:output, :null, :stdout]),
      default: :output,
      doc: "As `:stdout`. `:stdout` here means the same place as stdout."
    ],
    on_output: [
      type:
        Schema.custom(
          &__MODULE__.on_output?/1,
          ":log, a pid or a function of two arguments",
          quote(do: :log | pid() | (:stdout | :stderr, binary() -> term()))
        ),
      default: :log,
      doc:
        "The receiver of output. `:log` writes lines with `Logger` (stdout at level info, " <>
          "stderr at warning). A pid gets " <>
          "`{:leash_output, worker, :stdout | :stderr, binary}`. A function is called with " <>
          "stream and binary in a process of its own; until it returns, nothing more is read."
    ],
    on_stderr: [
      type:
        Schema.custom(
          &__MODULE__.on_stderr?/1,
          ":log, a pid or a function of two arguments",
          quote(do: :log | pid() | (:stdout | :stderr, binary() -> term()) | nil)
        ),
      doc: "The receiver of stderr, if that differs from `:on_output`."
    ],
    output_window: [
      type:
        Schema.custom(
          &__MODULE__.output_window?/1,
          "a positive number of messages",
          quote(do: pos_integer())
        ),
      default: 256,
      doc:
        "The most messages that may wait in the mailbox of a pid that gets output, from any " <>
          "sender. If the mailbox holds more, then nothing is read for the pid (a message " <>
          "holds at most 64 KiB). So the pipe fills and holds the program back. Messages that " <>
          "stay unread while the pid takes those of the program do not count. The window does " <>
          "not apply before `:ready`, because the pid may be waiting for just that. It does " <>
          "not apply to a pid of another node, whose mailbox cannot be measured. There the " <>
          "connection's own buffer holds the program back."
    ],
    stop: Ladder.option(),
    linger: [
      type: Schema.milliseconds(),
      default: 200,
      doc:
        "Milliseconds that its children get to end by themselves after a worker exits by " <>
          "itself. Then the ladder begins."
    ],
    limits: [
      type: Schema.custom(&Limits.valid?/1, Limits.expected(), quote(do: Leash.Limits.t())),
      default: [],
      doc: "The kernel's limits for the program, see `Leash.Limits`."
    ],
    on_exit: [
      type: Schema.one_of([:stop, :keep, :detach]),
      default: :stop,
      doc:
        "The end of processes that are left when a program exits by itself: with `:stop` " <>
          "they are stopped. With `:keep` they go on, and no sweep ends them. Any other end " <>
          "of the program ends all of them. `:keep` needs `:mark`. If not all of them can be " <>
          "marked as kept, then they are stopped. With `:detach` the program itself goes on " <>
          "when this process, its supervisor, the application or the VM ends, in any way. See " <>
          "\"A worker that outlives its VM\"."
    ],
    on_crash: [
      type: Schema.one_of([:kill, :ladder]),
      default: :kill,
      doc:
        "The way to end the tree if its owner or this process crashes or is killed. `:kill` " <>
          "is SIGKILL at once. `:ladder` is the ladder of `:stop`, for a program that must " <>
          "not leave half of its work. After `:normal` and `:shutdown` it is always the " <>
          "ladder."
    ],
    ready: [
      type:
        Schema.custom(
          &__MODULE__.ready?/1,
          "a regex for a line of stdout, {:tcp, port}, {:http, target} (#{HTTP.expected()}), or a function of no or one argument",
          quote(
            do:
              Regex.t()
              | {:tcp, :inet.port_number()}
              | {:http, unquote(HTTP.typespec())}
              | (() -> term())
              | (map() -> term())
              | nil
          )
        ),
      doc:
        "The condition under which `start_link/1` returns. A line of stdout matches, or the " <>
          "port accepts a connection on 127.0.0.1 or ::1. Or GET is answered with 200, or the " <>
          "function returns `true`, `:ok` or `{:ok, term}`. The function is called every 50 " <>
          "ms in a process of its own. If it takes an argument, then it gets the result of " <>
          "`info/1`. If it raises, then it is called again. If another process already " <>
          "listens at a port of this machine, then the start fails with " <>
          "`{:error, {:port_in_use, port}}`. A regex with the modifier `u` sees U+FFFD for " <>
          "each byte that is no UTF-8."
    ],
    ready_timeout: [
      type: Schema.milliseconds(),
      default: 30_000,
      doc: "Milliseconds until a worker that is not ready is ended: `{:error, :ready_timeout}`."
    ],
    start_timeout: [
      type: Schema.milliseconds(),
      default: 10_000,
      doc:
        "Milliseconds until a program whose exec does not return (a file system that hangs) " <>
          "is given up: `{:error, :start_timeout}`."
    ],
    health: [
      type:
        Schema.custom(&Health.valid?/1, Health.expected(), quote(do: unquote(Health.typespec()))),
      doc:
        "Checks the worker once it is ready: asks `:check` every `:every` (5_000) " <>
          "milliseconds. A check fails if the answer is bad or does not come within " <>
          "`:timeout` (1_000) milliseconds. After `:failures` (3) failures in a row the " <>
          "worker ends by its ladder, and this process exits with `{:unhealthy, reason}`. A " <>
          "port is well if it accepts a connection. A URL is well if GET is answered with " <>
          "200. A function is well if it returns `true`, `:ok` or `{:ok, term}`."
    ],
    guard: [
      type:
        Schema.custom(
          &Guard.Options.valid?/1,
          Guard.Options.expected(),
          quote(do: unquote(Guard.Options.typespec()))
        ),
      doc:
        "Limits of the whole tree, checked every `:every` (1_000) milliseconds. " <>
          "`:processes` is a number of processes, `:rss` an amount of memory, `:lifetime` the " <>
          "time since the start. `:idle` is the time with no output seen by this process and " <>
          "no CPU time used. With `:action` `:stop` (default) the worker ends by its ladder, " <>
          "and this process exits with " <>
          "`{:guard, %{limit: limit, max: number, value: number}}`. `:log` writes a warning. " <>
          "A function is called with a map. Both act once until the value is within the limit " <>
          "again. See `guides/workers.md`."
    ],
    run_id_flag: [
      type: Schema.optional_text(),
      doc:
        "A flag, such as `\"--run-id\"`. It is appended to the arguments, with the run's id " <>
          "as its value."
    ],
    exit_reason: [
      type:
        Schema.custom(
          &__MODULE__.exit_reason?/1,
          "a function of one argument",
          quote(do: (Leash.Exit.t() -> term()) | nil)
        ),
      doc:
        "Maps the `Leash.Exit` of a worker that ended by itself to this process's exit " <>
          "reason. The default is `Leash.Exit.reason/1`, also if the function fails or takes " <>
          "more than 1,000 ms."
    ],
    mark: [
      type: Schema.boolean(),
      default: true,
      doc:
        "`false` leaves `RLIMIT_LOCKS` alone. Then, if the warden is killed with VM and " <>
          "shim, or the program is a port's, only the environment identifies what is left. " <>
          "Children that drop it are not found."
    ]
  ]

  @schema Schema.new(@options)

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc false
  @spec arguments?(term()) :: boolean()
  def arguments?(args) do
    is_list(args) and
      Enum.all?(args, &(is_binary(&1) and :binary.match(&1, <<0>>) == :nomatch))
  end

  @doc false
  @spec name?(term()) :: boolean()
  def name?(nil), do: true
  def name?(name) when is_atom(name), do: true
  def name?({:global, _term}), do: true
  def name?({:via, module, _term}), do: is_atom(module)
  def name?(_other), do: false

  @doc false
  @spec env?(term()) :: boolean()
  def env?(env) when is_map(env) and not is_struct(env), do: env?(Map.to_list(env))
  def env?(env), do: is_list(env) and Enum.all?(env, &variable?/1)

  defp variable?({name, value}) do
    Schema.text?(name) and String.valid?(name) and name != "LEASH_RUN" and
      :binary.match(name, "=") == :nomatch and
      (value == nil or value == "" or (Schema.text?(value) and String.valid?(value)))
  end

  defp variable?(_other), do: false

  @doc false
  @spec on_output?(term()) :: boolean()
  def on_output?(:log), do: true
  def on_output?(pid) when is_pid(pid), do: true
  def on_output?(fun), do: is_function(fun, 2)

  @doc false
  @spec on_stderr?(term()) :: boolean()
  def on_stderr?(value), do: value == nil or on_output?(value)

  @doc false
  @spec output_window?(term()) :: boolean()
  def output_window?(value), do: is_integer(value) and value > 0

  @doc false
  @spec ready?(term()) :: boolean()
  def ready?(nil), do: true
  def ready?(ready), do: is_struct(ready, Regex) or Readiness.valid?(ready)

  @doc false
  @spec exit_reason?(term()) :: boolean()
  def exit_reason?(value), do: value == nil or is_function(value, 1)

  @doc """
  Checks everything that can be checked before anything starts.

  The result has the executable's path as `:command`, and `:env` as a list.
  """
  @spec validate(keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def validate(options) do
    with {:ok, options} <- check(options),
         :ok <- stdin_to_close(options),
         {:ok, executable} <- executable(options.command, options.cd) do
      {:ok, %{options | command: executable}}
    end
  end

  @doc "Like `validate/1`, for callers that have already looked for the program."
  @spec check(keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def check(options) do
    with {:ok, options} <- Schema.validate(@schema, options),
         {:ok, options} <- command(options),
         :ok <- marked_if_kept(options),
         :ok <- detachable(options),
         :ok <- readable_ready(options),
         :ok <- directory(options.cd),
         {:ok, stop} <- Ladder.resolve(options.stop, options.cd),
         :ok <- parent_directory(:stdout, options.stdout),
         :ok <- parent_directory(:stderr, options.stderr),
         :ok <- lengths(options.args) do
      {:ok, %{options | env: Enum.to_list(options.env), stop: stop}}
    end
  end

  defp stdin_to_close(%{stdin: stdin}) when stdin in [:pipe, :open], do: :ok

  defp stdin_to_close(%{stdin: stdin, stop: stop}) do
    if Ladder.closes_stdin?(stop),
      do: Schema.error(:stdin, ":pipe or :open beside {:close_stdin, _} in :stop", stdin),
      else: :ok
  end

  defp command(%{command: nil, shell: nil}),
    do: Schema.error(:command, "a string without NUL bytes (:command or :shell is required)", nil)

  defp command(%{command: nil, shell: line, args: []} = options),
    do: {:ok, %{options | command: "/bin/sh", args: ["-c", line]}}

  defp command(%{command: nil, args: args}),
    do: Schema.error(:args, "no arguments beside :shell, which is a whole command line", args)

  defp command(%{shell: nil} = options), do: {:ok, options}

  defp command(%{shell: line}),
    do: Schema.error(:shell, "nothing beside :command (one of the two)", line)

  defp detachable(%{on_exit: :detach} = options), do: Leash.Detached.check(options)
  defp detachable(_options), do: :ok

  # A later run ends processes that have no mark to keep them.
  defp marked_if_kept(%{on_exit: :keep, mark: false}),
    do: Schema.error(:mark, "true beside on_exit: :keep", false)

  defp marked_if_kept(_options), do: :ok

  # If stdout goes elsewhere, then its line never comes, and the start waits for the timeout.
  defp readable_ready(%{ready: ready, stdout: stdout})
       when is_struct(ready, Regex) and stdout != :output,
       do: Schema.error(:stdout, ":output, because :ready waits for a line of it", stdout)

  defp readable_ready(_options), do: :ok

  defp directory(nil), do: :ok

  defp directory(path) do
    case File.stat(path) do
      {:ok, %{type: :directory}} ->
        if enterable?(path),
          do: :ok,
          else: Schema.error(:cd, "a directory that can be entered (eacces)", path)

      {:ok, %{type: type}} ->
        Schema.error(:cd, "a directory (it is a #{type})", path)

      {:error, reason} ->
        Schema.error(:cd, "a directory that can be entered (#{reason})", path)
    end
  end

  # Only the kernel knows whether a directory may be entered (ids, capabilities, ACLs). A lookup
  # of "." in it asks the kernel.
  defp enterable?(path), do: match?({:ok, _}, File.stat(Path.join(path, ".")))

  defp parent_directory(key, {:file, path}) do
    parent = Path.dirname(path)

    cond do
      File.dir?(path) ->
        Schema.error(key, "a file to append to (it is a directory)", {:file, path})

      File.dir?(parent) ->
        :ok

      true ->
        Schema.error(key, "a file in a directory that exists", {:file, path})
    end
  end

  defp parent_directory(_key, _target), do: :ok

  defp executable(command, cd) do
    case Executable.find(command, cd) do
      {:ok, path} ->
        {:ok, path}

      {:error, :not_in_path} ->
        Schema.error(:command, "an executable in PATH (enoent)", command)

      {:error, :no_working_directory} ->
        Schema.error(
          :command,
          "an absolute path (the VM's working directory was deleted)",
          command
        )

      {:error, {:type, type}} ->
        Schema.error(:command, "an executable file (it is a #{type})", command)

      {:error, {:errno, number}} ->
        Schema.error(:command, "an executable file (errno #{number})", command)

      {:error, reason} ->
        Schema.error(:command, "an executable file (#{reason})", command)
    end
  end

  defp lengths(args) do
    case Enum.find(args, &(byte_size(&1) > @longest_argument)) do
      nil ->
        :ok

      long ->
        Schema.error(:args, "arguments of at most #{@longest_argument} bytes", shorten(long))
    end
  end

  defp shorten(long), do: binary_part(long, 0, 40) <> "… (#{byte_size(long)} bytes)"
end

defmodule Leash.Command.Options do
  # The options of `Leash.cmd/3` and the streams. `Leash.Worker.Options` checks the shared ones.
  @moduledoc false

  alias Leash.{Executable, Identity, Pty, Schema}
  alias Leash.Stdio.Lines
  alias Leash.Worker

  import Leash.Pty, only: [is_asked: 1]

  # Options that go to the Worker unchanged.
  @worker Identity.keys() ++
            [
              :pty,
              :cd,
              :env,
              :clear_env,
              :arg0,
              :stop,
              :on_exit,
              :on_crash,
              :limits,
              :cgroup,
              :mark,
              :run_id_flag,
              :group,
              :label
            ]

  # If exec does not return, the caller waits for so long unless `:timeout` is shorter.
  @start_timeout 0x7FFFFFFF

  # Options of both, at different places of the documentation.
  @stderr_to_stdout [
    type: :boolean,
    default: false,
    doc: "Sends stderr where stdout goes."
  ]
  @timeout [
    type: {:or, [Schema.milliseconds(), {:in, [:infinity]}]},
    type_doc: "milliseconds or :infinity",
    type_spec: quote(do: timeout()),
    default: :infinity
  ]
  @timeouts [
    type:
      {:or,
       [
         Schema.milliseconds(),
         {:in, [:infinity]},
         keyword_list: [
           total: @timeout ++ [doc: "Milliseconds from the start."],
           idle:
             @timeout ++
               [
                 doc:
                   "Milliseconds without output that is read here. The time that the caller " <>
                     "takes between two reads does not count."
               ]
         ]
       ]},
    type_doc: "milliseconds, :infinity or [total: milliseconds, idle: milliseconds]",
    type_spec: quote(do: timeout() | [total: timeout(), idle: timeout()]),
    default: :infinity
  ]

  @lines Lines.option("Collects stdout line by line, into `into: []` for example.")

  @shared [
            input: [
              type: {:custom, __MODULE__, :input, []},
              type_doc: "iodata or an enumerable of iodata",
              type_spec: quote(do: iodata() | Enumerable.t() | nil),
              doc: "Written to stdin by a process of its own. stdin is closed at the end."
            ],
            stdin: [
              type: {:in, [:open, :null]},
              default: :open,
              doc:
                "What a program without `:input` reads. `:open` neither ends nor brings " <>
                  "anything, as with `System.cmd/3`. So a program that stops at the end of " <>
                  "stdin goes on (esbuild, tailwindcss and vite with `--watch`). `:null` is " <>
                  "an empty input."
            ],
            linger:
              @timeout ++
                [
                  doc:
                    "Milliseconds that processes which hold the output get after the " <>
                      "program has exited. Then the ladder of `:stop` ends them. With " <>
                      "`on_exit: :keep` they go on and are no longer read. The status stays " <>
                      "that of the program."
                ],
            shell: [
              type: :boolean,
              default: false,
              doc: "`true`: the command is a line for `/bin/sh -c`, and takes no arguments."
            ]
          ] ++
            (Worker.Options.schema().options
             |> Keyword.take(@worker)
             |> Keyword.replace!(:on_exit,
               type: {:in, [:stop, :keep]},
               default: :stop,
               doc:
                 "What happens to processes that a command leaves if it exits by itself. " <>
                   "They are stopped, or with `:keep` go on, and no sweep ends them. Every " <>
                   "other end of the command ends all of them. Needs `:mark`. If not all of " <>
                   "them can be marked as kept, they are stopped."
             )
             |> Keyword.replace!(:on_crash,
               type: {:in, [:kill, :ladder]},
               default: :ladder,
               doc:
                 "How the tree is ended if the calling process crashes or is killed: by the " <>
                   "ladder of `:stop`, so that nothing half-written stays, or by SIGKILL at " <>
                   "once. After `:normal` and `:shutdown` the ladder is used."
             ))

  @cmd [
         into: [
           type: :any,
           type_doc: "a Collectable",
           type_spec: quote(do: Collectable.t()),
           default: "",
           doc: "Collects stdout."
         ],
         lines: [
           type: {:or, [nil, :pos_integer, Keyword.fetch!(@lines, :type)]},
           type_doc: "true, false, [max: bytes] or a positive number",
           type_spec: quote(do: boolean() | [max: pos_integer()] | pos_integer()),
           doc:
             @lines[:doc] <>
               " A number is that of `System.cmd/3`. Then lines of any length stay whole, and " <>
               "end with a line feed alone."
         ],
         timeout:
           @timeouts ++
             [
               doc:
                 "After so many milliseconds `:stop` ends the tree, and the status is " <>
                   "`:timeout`. With `:idle` the tree also ends after so long without output, " <>
                   "and the status is `{:timeout, :idle}`."
             ],
         max_output: [
           type: {:or, [{:in, [:infinity]}, :non_neg_integer]},
           type_doc: "a number of bytes or :infinity",
           default: :infinity,
           doc:
             "If stdout and captured stderr together have more bytes than that, the tree is " <>
               "ended and the output is cut there. The status is `:max_output`."
         ],
         stdout: [
           type: {:custom, Schema, :target, [[:capture, :null]]},
           default: :capture,
           doc:
             "`:capture` goes to `:into`. With `:null` and `{:file, path}`, which is appended " <>
               "to, nothing is collected of it."
         ],
         stderr: [
           type: {:custom, Schema, :target, [[:inherit, :capture, :null]]},
           default: :inherit,
           doc:
             "`:inherit` writes to the VM's stderr. `:capture` makes the result " <>
               "`{{stdout, stderr}, status}`. `{:file, path}` is appended to."
         ],
         stderr_to_stdout: @stderr_to_stdout,
         parallelism: [
           type: :boolean,
           default: false,
           doc: "Accepted for `System.cmd/3`'s sake; no data go through a port."
         ],
         use_stdio: [
           type: :boolean,
           default: true,
           doc:
             "`false` leaves the program the VM's own stdin, stdout and stderr. Nothing is " <>
               "collected."
         ]
       ] ++ @shared

  @stream [
            stdout: [
              type: {:custom, Schema, :target, [[:stream, :null]]},
              default: :stream,
              doc:
                "`:stream` makes elements of it, `:null` and `{:file, path}` do not. So " <>
                  "`stdout: :null, stderr: :stream` reads stderr alone."
            ],
            stderr: [
              type: {:custom, Schema, :target, [[:inherit, :stream, :null]]},
              default: :inherit,
              doc:
                "`:inherit` writes to the VM's stderr. `:stream` makes the elements " <>
                  "`{:stdout, binary}` and `{:stderr, binary}`. `{:file, path}` is appended " <>
                  "to."
            ],
            stderr_to_stdout: @stderr_to_stdout,
            max_chunk_size: [
              type: {:in, 1..0x7FFFFFFF},
              type_doc: "a positive number of bytes",
              type_spec: quote(do: pos_integer()),
              default: 65_536,
              doc: "The maximum size of an element in bytes; with `:lines` that of a read."
            ],
            lines: Lines.option("Makes the elements lines."),
            timeout:
              @timeouts ++
                [
                  doc:
                    "So many milliseconds after the start `:stop` ends the tree. The stream " <>
                      "ends with `{:exit, :timeout}` or raises. With `:idle` the tree also " <>
                      "ends after so long without output, and the end is " <>
                      "`{:exit, {:timeout, :idle}}`."
                ]
          ] ++ @shared

  @cmd_schema Schema.new(@cmd)
  @stream_schema Schema.new(@stream)

  @doc "The options of `Leash.cmd/3`."
  @spec cmd() :: Schema.t()
  def cmd, do: @cmd_schema

  @doc "The options of `Leash.stream!/3` and `Leash.stream/3`."
  @spec stream() :: Schema.t()
  def stream, do: @stream_schema

  @doc false
  @spec input(term()) :: {:ok, term()} | {:error, String.t()}
  def input(input),
    do: if(input?(input), do: {:ok, input}, else: {:error, @shared[:input][:type_doc]})

  # The elements of an enumerable are checked when they are written.
  defp input?(nil), do: true
  # Only functions of two arguments are enumerables.
  defp input?(input) when is_function(input), do: is_function(input, 2)
  defp input?(input) when is_binary(input) or is_list(input), do: true
  defp input?(input), do: Enumerable.impl_for(input) != nil

  @doc """
  Checks a command, its arguments and options: those of `schema` and those that a Worker takes.

  Raises what `System.cmd/3` raises for the same mistake, and `Leash.OptionsError` otherwise.
  """
  @spec validate!(Schema.t(), String.t(), [binary()], keyword()) :: {map(), map()}
  def validate!(schema, command, args, options) do
    if not (is_binary(command) and is_list(args) and Enum.all?(args, &is_binary/1)),
      do:
        raise(
          ArgumentError,
          "expected a command and a list of arguments, all of them binaries, got: " <>
            "#{inspect(command)}, #{inspect(args)}"
        )

    options = env_to_list(options)
    own = Schema.unwrap!(Schema.validate(schema, options))

    if own.input != nil and own.stdin == :null,
      do: Schema.refuse!(:stdin, "nothing beside :input", :null)

    own = timeouts(own)

    if own.idle != :infinity and not read?(own),
      do: Schema.refuse!(:timeout, "no :idle where no output is read here", options[:timeout])

    if is_asked(own.pty), do: :ok = Pty.check_command!(own, options)
    {own, worker!(command, args, own, options)}
  end

  defp timeouts(%{timeout: [_ | _] = timeouts} = own),
    do: Map.merge(own, %{timeout: timeouts[:total], idle: timeouts[:idle]})

  defp timeouts(%{timeout: []} = own), do: Map.merge(own, %{timeout: :infinity, idle: :infinity})
  defp timeouts(own), do: Map.put(own, :idle, :infinity)

  defp read?(%{use_stdio: false}), do: false
  defp read?(own), do: :output in [stdout(own), stderr(own)]

  # System.cmd/3 accepts any enumerable of pairs.
  defp env_to_list(options) do
    with true <- Keyword.keyword?(options),
         {:ok, env} <- Keyword.fetch(options, :env),
         true <- Enumerable.impl_for(env) != nil do
      Keyword.replace!(options, :env, Enum.to_list(env))
    else
      _nothing_to_do -> options
    end
  end

  # Only given options are handed on. The defaults are the Worker's own.
  defp worker!(command, args, own, options) do
    shared = for {key, _value} = given <- options, key in @worker, do: given
    {stderr, on_output} = {stderr(own), self()}

    options =
      Schema.unwrap!(
        Worker.Options.check(
          program!(command, args, own.shell) ++
            streams(own, stderr) ++ [on_output: on_output] ++ shared
        )
      )

    Map.merge(options, %{
      input: own.input,
      stderr: stderr,
      linger: own.linger,
      on_crash: own.on_crash,
      start_timeout: min(own.timeout, @start_timeout)
    })
    |> stdio(Map.get(own, :use_stdio, true))
  end

  defp stdout(%{stdout: read}) when read in [:capture, :stream], do: :output
  defp stdout(%{stdout: stdout}), do: stdout

  defp streams(_own, :pty), do: []

  defp streams(own, stderr) do
    [
      stdin: if(own.input == nil, do: own.stdin, else: :pipe),
      stdout: stdout(own),
      stderr: if(stderr == :inherit, do: :null, else: stderr)
    ]
  end

  defp stderr(%{pty: pty}) when is_asked(pty), do: :pty
  defp stderr(%{stderr_to_stdout: true}), do: :stdout
  defp stderr(%{stderr: captured}) when captured in [:capture, :stream], do: :output
  defp stderr(%{stderr: stderr}), do: stderr

  defp stdio(options, true), do: options

  defp stdio(%{stdin: :open, stdout: :output} = options, false),
    do: %{options | stdin: :inherit, stdout: :inherit}

  defp stdio(%{stdin: :open} = options, false),
    do: Schema.refuse!(:stdout, "nothing beside use_stdio: false", options.stdout)

  defp stdio(%{input: nil}, false),
    do: Schema.refuse!(:stdin, "nothing beside use_stdio: false", :null)

  defp stdio(options, false),
    do: Schema.refuse!(:input, "nothing beside use_stdio: false", options.input)

  defp program!(line, [], true), do: [shell: line]

  defp program!(_line, args, true),
    do: Schema.refuse!(:args, "no arguments beside :shell, which is a whole command line", args)

  defp program!(command, args, false) do
    if String.contains?(command, <<0>>),
      do: raise(ArgumentError, "cannot execute a command with a null byte: #{inspect(command)}")

    [command: Executable.find!(command), args: args]
  end
end

defmodule Leash.Degraded.Program do
  # Starts a program as a plain port, behind a gate: a shell waits for a line, and is then
  # replaced by the program. Until the keeper is there, nothing runs that could be left.
  @moduledoc false

  alias Leash.Degraded.Keeper
  alias Leash.Environment

  @enforce_keys [:port, :keeper, :monitor, :os_pid]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          port: port(),
          keeper: pid(),
          monitor: reference(),
          os_pid: pos_integer()
        }

  @doc """
  Starts a program for the calling process, which owns the port.

  `options` are those of `Leash.Worker.Options`. `files` replace stdin and stderr by files.
  """
  @spec start(:worker | :command, map(), %{optional(:stdin | :stderr) => Path.t()}) ::
          {:ok, t()} | {:error, term()}
  def start(kind, options, files \\ %{})

  # The port's driver knows pipes only.
  def start(_kind, %{stdin: :pty}, _files), do: {:error, {:pty, :enotsup}}

  # A program that was to have fewer rights must not run with those of the VM.
  def start(_kind, %{identity: _arguments}, _files), do: {:error, {:ids, :enotsup}}

  def start(kind, options, files) do
    port = open(options, files)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {:ok, keeper} = keep(kind, port, os_pid, options)
    true = Port.command(port, "go\n")

    {:ok,
     %__MODULE__{port: port, keeper: keeper, monitor: Process.monitor(keeper), os_pid: os_pid}}
  rescue
    error in ErlangError -> {:error, {:pipe, error.original}}
  end

  defp open(options, files) do
    Port.open(
      {:spawn_executable, "/bin/sh"},
      [
        :binary,
        :exit_status,
        args: ["-c", script(options, files), "sh", options.command | options.args],
        env: Environment.for_port(options, Enum.map(options.env, &variable/1))
      ] ++
        if(options.cd, do: [cd: options.cd], else: []) ++
        if(options.stdin == :inherit, do: [:nouse_stdio], else: [])
    )
  end

  # The form of the port driver: false unsets, and so would an empty charlist.
  defp variable({name, nil}), do: {String.to_charlist(name), false}
  defp variable({name, ""}), do: {String.to_charlist(name), [[]]}
  defp variable({name, value}), do: {String.to_charlist(name), String.to_charlist(value)}

  @doc "Starts the keeper of a program that the calling process owns."
  @spec keep(:worker | :command | :port, port(), pos_integer(), map()) :: {:ok, pid()}
  def keep(kind, port, os_pid, options) do
    kept = %{
      kind: kind,
      owner: self(),
      port: if(kind == :port, do: port),
      os_pid: os_pid,
      label: label(options),
      name: options[:name],
      group: options.group,
      stop: options.stop,
      on_crash: options.on_crash
    }

    DynamicSupervisor.start_child(Leash.Degraded.Keepers, {Keeper, kept})
  end

  @doc "Returns the name of a program in lists and logs."
  @spec label(map()) :: String.t()
  def label(%{label: label}) when label != nil, do: Leash.Text.printable(label)
  def label(%{name: name}) when name != nil, do: inspect(name)
  def label(%{command: command}), do: command |> Path.basename() |> Leash.Text.printable()

  defp script(%{stdin: :inherit} = options, _files),
    do: "read -r go <&3 || exit 0; exec \"$@\" 3<&- 4>&-" <> stderr(options, %{})

  defp script(options, files) do
    "read -r go || exit 0; exec \"$@\"" <>
      stdin(options, files) <> stdout(options) <> stderr(options, files)
  end

  defp stdin(_options, %{stdin: path}), do: " <" <> quoted(path)
  defp stdin(%{stdin: :null}, _files), do: " </dev/null"
  # The port's pipe, which ends with the VM.
  defp stdin(_pipe_or_open, _files), do: ""

  # Nothing rotates it here.
  defp stdout(%{files: %{stdout: %{path: path}}}), do: " >>" <> quoted(path)
  defp stdout(%{stdout: :null}), do: " >/dev/null"
  defp stdout(%{stdout: {:file, path}}), do: " >>" <> quoted(path)
  defp stdout(_output), do: ""

  defp stderr(_options, %{stderr: path}), do: " 2>" <> quoted(path)
  defp stderr(%{files: %{stderr: %{path: path}}}, _files), do: " 2>>" <> quoted(path)
  defp stderr(%{stderr: :null}, _files), do: " 2>/dev/null"
  defp stderr(%{stderr: {:file, path}}, _files), do: " 2>>" <> quoted(path)
  # A port has one pipe for output.
  defp stderr(%{stderr: stderr}, _files) when stderr in [:output, :stdout], do: " 2>&1"
  defp stderr(_inherit, _files), do: ""

  defp quoted(text), do: "'" <> String.replace(text, "'", "'\\''") <> "'"
end

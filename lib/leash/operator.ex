defmodule Leash.Operator do
  @moduledoc """
  Runs the command `leash` (see `guides/cli.md`) from inside a VM: a project, or a release.

      $ mix leash.ps
      $ bin/my_app eval 'Leash.Operator.sweep(["--dry-run"]) |> System.halt()'

  This module runs the program that is installed with the library, on this VM's own terminal. The
  output goes to the VM's stdout, in colours if that is a terminal.

  The program needs neither the `:leash` application nor the host's. Both may be stopped, and
  nothing is started. The run directory is that of `config :leash, run_dir:`, unless `--run-dir`
  names another. Without both, the command finds the directory itself.

  Every function takes the command's arguments and returns its exit status:

  | status | meaning |
  |---|---|
  | 0 | done |
  | 1 | something is left, or it could not be proven that nothing is; or what was asked for is not known, or a VM did not answer |
  | 2 | usage |
  | 3 | refused |
  | 4 | the run directory or `/proc` cannot be used |

  Every function raises `RuntimeError` if the command is not installed (`LEASH_PREBUILT` named a
  directory without it), and `Leash.OptionsError` if the arguments are not strings. Then nothing
  is run.
  """

  @typedoc "An exit status of the command."
  @type status :: 0..255

  @doc """
  Returns the path of the command, or nil if it is not installed.

      $ ln -s "$(mix run --no-start -e 'IO.puts(Leash.Operator.path())')" ~/.local/bin/leash
  """
  @spec path() :: String.t() | nil
  def path do
    path = Path.join(priv(), "leash")
    if File.regular?(path), do: path
  end

  # The code server does not know the application of a script.
  defp priv do
    case :code.priv_dir(:leash) do
      {:error, :bad_name} ->
        __MODULE__ |> :code.which() |> Path.join("../../priv") |> Path.expand()

      dir ->
        List.to_string(dir)
    end
  end

  @doc "Runs `leash ps`: a line for each process of a worker."
  @spec ps([String.t()]) :: status()
  def ps(arguments \\ []), do: run(["ps" | arguments])

  @doc "Runs `leash tree`: runs, their shims and the processes below them."
  @spec tree([String.t()]) :: status()
  def tree(arguments \\ []), do: run(["tree" | arguments])

  @doc "Runs `leash runs`: the runs, and whether they are alive."
  @spec runs([String.t()]) :: status()
  def runs(arguments \\ []), do: run(["runs" | arguments])

  @doc "Runs `leash sweep`: ends what dead runs left."
  @spec sweep([String.t()]) :: status()
  def sweep(arguments \\ []), do: run(["sweep" | arguments])

  @doc "Runs `leash stop NAME`: asks the living VMs to end a worker or a group."
  @spec stop(String.t(), [String.t()]) :: status()
  def stop(name, arguments \\ []), do: run(["stop" | arguments] ++ ["--", name])

  @doc "Runs `leash kill RUN_ID`: ends what one dead run left."
  @spec kill(Leash.RunId.t(), [String.t()]) :: status()
  def kill(run_id, arguments \\ []), do: run(["kill" | arguments] ++ ["--", run_id])

  @doc "Runs `leash` with these arguments."
  @spec run([String.t()]) :: status()
  def run(arguments) do
    unless is_list(arguments) and Enum.all?(arguments, &argument?/1),
      do: Leash.Schema.refuse!(:arguments, "a list of strings without NUL bytes", arguments)

    program =
      path() ||
        raise "the command leash is not installed in #{priv()}: compile Leash with cargo, " <>
                "or put it into the directory of LEASH_PREBUILT"

    # In a process of its own, so that no message of the port stays with the caller.
    {pid, monitor} =
      spawn_monitor(fn -> exit({:shutdown, {:status, execute(program, arguments)}}) end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, {:shutdown, {:status, status}}} -> status
      {:DOWN, ^monitor, :process, ^pid, reason} -> exit({reason, {__MODULE__, :run, [arguments]}})
    end
  end

  defp argument?(argument), do: is_binary(argument) and not String.contains?(argument, <<0>>)

  defp execute(program, arguments) do
    # Its stdin, stdout and stderr are this VM's. The command does not read, and ends by itself: a
    # sweep has a deadline.
    port =
      Port.open({:spawn_executable, program}, [
        :nouse_stdio,
        :exit_status,
        args: arguments,
        env: environment()
      ])

    receive do
      {^port, {:exit_status, status}} -> status
    end
  end

  defp environment do
    # `bin/app eval` loads no application, and an application that is not loaded has no
    # configuration.
    _ = Application.load(:leash)

    case Application.get_env(:leash, :run_dir) do
      dir when is_binary(dir) and dir != "" -> [{~c"LEASH_RUN_DIR", String.to_charlist(dir)}]
      _none -> []
    end
  end
end

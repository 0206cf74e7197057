defmodule Leash.Test.VM do
  @moduledoc """
  A second VM as an operating system process, so that a test can end it like any other. See
  `Leash.Test.Guest` for the code in it. The VM belongs to the process that started it and ends
  with it.
  """

  alias Leash.Test.{Carrier, Name, Observer}

  @enforce_keys [:port, :carrier, :log]
  defstruct [:port, :carrier, :log, :identity, :run_id, workers: %{}, trees: %{}]

  @type t :: %__MODULE__{
          port: port(),
          carrier: Carrier.t(),
          log: String.t(),
          identity: Observer.identity() | nil,
          run_id: String.t() | nil,
          workers: %{String.t() => %{os: Observer.identity(), shim: Observer.identity()}},
          trees: %{String.t() => [Observer.identity()]}
        }

  @doc """
  Starts a VM. `await/1` waits until its workers are ready.

  `workers` are pairs of a label and the options of `Leash.Worker`. Options of the VM:

    * `:carrier` – the carrier (default: one of its own)
    * `:prefix` – a command in front, such as `unshare`
    * `:env` – the application's environment
    * `:mode` – see `Leash.Test.Guest`
    * `:os_env` – variables
  """
  @spec boot(String.t(), [{String.t(), keyword()}], keyword()) :: t()
  def boot(run_dir, workers, options \\ []) do
    carrier = options[:carrier] || Carrier.new()
    log = Path.join(System.tmp_dir!(), Name.unique("leash-vm") <> ".log")

    # Each step uses exec, so that the port's process becomes the VM.
    line = "#{Carrier.enter(carrier)}exec #{options[:prefix]} #{command_line()} 2>>#{log}"
    os_env = Map.merge(variables(run_dir, workers, options), options[:os_env] || %{})

    port =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        :exit_status,
        {:line, 65_536},
        args: ["-c", line],
        env: for({key, value} <- os_env, do: {to_charlist(key), value && to_charlist(value)})
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    %__MODULE__{port: port, carrier: carrier, log: log, identity: Observer.identity(pid)}
  end

  @doc "Returns the shell's words that start a guest, which needs `variables/3`."
  @spec command_line() :: String.t()
  def command_line do
    "#{System.find_executable("elixir")} #{code_paths()} " <>
      "--erl '+sbwt none +sbwtdcpu none +sbwtdio none' -e 'Leash.Test.Guest.main()'"
  end

  @doc "Returns the environment of a guest."
  @spec variables(String.t(), [{String.t(), keyword()}], keyword()) :: %{String.t() => String.t()}
  def variables(run_dir, workers, options \\ []) do
    spec = %{workers: workers, env: options[:env] || [], mode: options[:mode] || :worker}

    %{
      "GUEST_SPEC" => spec |> :erlang.term_to_binary() |> Base.encode64(),
      "LEASH_RUN_DIR" => run_dir,
      "ERL_CRASH_DUMP_SECONDS" => "0"
    }
  end

  defp code_paths do
    for path <- :code.get_path(),
        path = to_string(path),
        String.ends_with?(path, "/leash/ebin"),
        into: "",
        do: "-pa '#{path}' "
  end

  @doc "Starts a VM and waits until its workers are ready."
  @spec start(String.t(), [{String.t(), keyword()}], keyword()) :: t()
  def start(run_dir, workers, options \\ []), do: run_dir |> boot(workers, options) |> await()

  @doc "Waits until the workers are ready."
  @spec await(t()) :: t()
  def await(vm) do
    case vm |> line(60_000) |> String.split() do
      ["ready"] ->
        vm

      ["run", id] ->
        await(%{vm | run_id: id})

      ["worker", label, os, shim] ->
        await(put_in(vm.workers[label], %{os: identity(os), shim: identity(shim)}))

      ["tree", label | pids] ->
        await(put_in(vm.trees[label], Enum.map(pids, &identity/1)))

      _other ->
        await(vm)
    end
  end

  # In a child pid namespace another process, or none, has the number here.
  defp identity(pid), do: pid |> String.to_integer() |> Observer.identity()

  @doc "Returns the next line from the VM; raises with its log if it ends instead."
  @spec line(t(), non_neg_integer()) :: String.t()
  def line(%{port: port} = vm, ms \\ 20_000) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:data, {:noeol, part}}} -> part <> line(vm, ms)
      {^port, {:exit_status, status}} -> raise "the VM exited with #{status}:\n#{log(vm)}"
    after
      ms -> raise "no line from the VM within #{ms} ms:\n#{log(vm)}"
    end
  end

  @doc "Returns what the VM wrote to its stderr."
  @spec log(t()) :: String.t()
  def log(vm) do
    case File.read(vm.log) do
      {:ok, text} -> text
      {:error, _none} -> ""
    end
  end

  @doc "Sends a command that has no answer of its own."
  @spec command(t(), String.t()) :: :ok
  def command(%{port: port}, command) do
    true = Port.command(port, command <> "\n")
    :ok
  end

  @doc "Sends a command and waits for the text after `done`."
  @spec ask(t(), String.t(), non_neg_integer()) :: String.t()
  def ask(vm, command, ms \\ 20_000) do
    command(vm, command)
    vm |> await_line("done ", ms)
  end

  @doc "Returns the rest of the next line with this beginning."
  @spec await_line(t(), String.t(), non_neg_integer()) :: String.t()
  def await_line(vm, beginning, ms \\ 20_000) do
    line = line(vm, ms)

    if String.starts_with?(line, beginning),
      do: String.replace_prefix(line, beginning, ""),
      else: await_line(vm, beginning, ms)
  end

  @doc """
  Returns code that binds `read_port` to a function. It returns all output of a port whose program
  exits with 0.
  """
  @spec read_port() :: String.t()
  def read_port do
    """
    read_port = fn port ->
      read = fn read, all ->
        receive do
          {^port, {:data, data}} -> read.(read, all <> data)
          {^port, {:exit_status, 0}} -> all
        end
      end

      read.(read, "")
    end
    """
  end

  @doc "Runs code in the VM and returns its value, which has to be plain data."
  @spec eval(t(), String.t(), non_neg_integer()) :: term()
  def eval(vm, code, ms \\ 30_000) do
    vm |> ask("eval " <> Base.encode64(code), ms) |> Base.decode64!() |> :erlang.binary_to_term()
  end

  @doc "Signals the VM."
  @spec signal(t(), String.t()) :: :ok
  def signal(vm, name), do: Observer.signal(vm.identity, name)

  @doc "Returns the shims of its workers."
  @spec shims(t()) :: [Observer.identity()]
  def shims(vm), do: for({_label, %{shim: shim}} <- vm.workers, do: shim)

  @doc "Returns the process that forks for the VM."
  @spec fork_server(t()) :: Observer.identity()
  def fork_server(vm) do
    [forker] =
      Enum.filter(Carrier.members(vm.carrier), fn {pid, _ticks} ->
        pid |> Observer.argv() |> hd() |> Path.basename() == "erl_child_setup"
      end)

    forker
  end

  @doc """
  Returns the wardens of its run, as the process table shows them: one, except for the moment of
  its replacement.
  """
  @spec wardens(t()) :: [Observer.identity()]
  def wardens(%{run_id: run_id}) do
    argument = "--run-id=#{run_id}"

    for {pid, _ticks} = identity <- Observer.with_argument("--warden"),
        match?([_shim, ^argument, "--warden" | _], Observer.argv(pid)),
        do: identity
  end

  @doc """
  Returns all processes that would end its trees: the VM, the run's warden and the shims, in this
  order.
  """
  @spec supervision(t()) :: [Observer.identity()]
  def supervision(vm), do: [vm.identity | wardens(vm)] ++ shims(vm)

  @doc "Ends the VM and then, in any case, everything that is still in its carrier."
  @spec stop(t()) :: :ok
  def stop(vm) do
    # The guest halts at the end of its stdin.
    if Port.info(vm.port), do: Port.close(vm.port)
    Observer.eventually(5_000, fn -> Carrier.members(vm.carrier) == [] end)
    Carrier.clear(vm.carrier)
    _ = File.rm(vm.log)
    :ok
  end
end

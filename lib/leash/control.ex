defmodule Leash.Control do
  # Answers an operator's requests to a living VM: the other side of `leash stop`.
  #
  # The socket is a Unix socket beside the run's record, `<run dir>/<run_id>.sock`. Two things
  # decide which peers reach it. The directory is 0700 and ours whenever this process listens. The
  # kernel names the user of the peer, which must be this user or root.
  #
  # A connection carries one request, a line. The answer consists of lines, with tabs between the
  # fields, and the last line is `end` (native/PROTOCOL.md, section 6):
  #
  #     find NAME            the workers that NAME means
  #     stop DEADLINE NAME   ends them, and says how
  #     end DEADLINE N SHIM  the same for worker N, if SHIM is its shim
  #     names                the names that can be asked for
  #
  # Processes of their own, linked to no process, serve the requests. A request that stops
  # something goes on to its proof, even if the client goes away. No input becomes an atom: names
  # are compared as text.
  #
  # A run without a socket is a complete run that `leash stop` cannot ask. A start never fails
  # because of the socket.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:path, :error]

  alias Leash.{Exit, Native, Registry, Run, Schema, StopAll}

  # sun_path of unix(7) with its NUL.
  @most_path 107
  # A request is a line of at most this many bytes. A name has at most 1,000.
  @most_request 2_048
  # The time until a request has come, and until the client has read a part of the answer.
  @patience_ms 5_000
  # Requests at a time. The next one waits in the socket's queue.
  @most_requests 32
  # A removed socket (tmp cleaners remove them) must be back within a minute, like the record.
  @look_for_socket_ms 20_000
  # The time until the next attempt to listen, and until the next accept without descriptors.
  @again_ms 1_000
  # If a worker that was told to end still lives so long after its deadline, then it is reported
  # as still ending. `leash` waits 2 s.
  @last_word_ms 1_500

  # getsockopt(2) on Linux: SOL_SOCKET, SO_PEERCRED and the size of struct ucred.
  @peer {:raw, 1, 17, 12}

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @doc "Returns whether this run can be asked, for `Leash.capabilities/0`."
  @spec status() :: :ok | {:error, term()}
  def status do
    GenServer.call(__MODULE__, :status)
  catch
    :exit, _stopped -> {:error, :not_running}
  end

  @impl true
  def init(_run) do
    # So that terminate/2 removes the socket.
    Process.flag(:trap_exit, true)
    {:ok, listen(%{path: nil, listener: nil, acceptor: nil, error: nil})}
  end

  # If the directory or the record cannot be used, then the socket cannot be used either.
  defp place do
    with {:ok, %Run{lock: {:ok, _lock}} = run} <- Run.fetch(),
         path = Path.join(run.config.run_dir, run.id <> ".sock"),
         :ok <- short(path),
         :ok <- private(path) do
      {:ok, path}
    else
      {:ok, %Run{lock: {:error, reason}}} -> {:error, reason}
      {:error, reason} -> {:error, reason}
    end
  end

  defp short(path) when byte_size(path) <= @most_path, do: :ok
  defp short(_path), do: {:error, :enametoolong}

  # Checks owner and mode of the directory, as it is opened now.
  defp private(path) do
    dir = Path.dirname(path)

    case Native.capabilities(dir) do
      %{run_dir: true} -> :ok
      %{run_dir_error: reason} -> {:error, {reason, dir}}
    end
  end

  defp listen(state) do
    case place() do
      {:ok, path} -> listen(path, %{state | path: path})
      # A directory that becomes usable is used.
      {:error, reason} -> again(%{state | error: reason})
    end
  end

  defp listen(path, state) do
    # Only this run has the id, so a killed process of this run left what is there.
    _ = File.rm(path)

    options = [
      :binary,
      ifaddr: {:local, path},
      active: false,
      packet: :line,
      # A longer line comes in parts, without its end.
      buffer: @most_request,
      send_timeout: @patience_ms,
      send_timeout_close: true
    ]

    case :gen_tcp.listen(0, options) do
      {:ok, listener} ->
        # Independent of the umask. Until now the directory and the check of the peer were enough.
        _ = File.chmod(path, 0o600)
        acceptor = spawn_link(fn -> accept(listener, 0) end)
        _timer = Process.send_after(self(), {:look, listener}, @look_for_socket_ms)
        %{state | listener: listener, acceptor: acceptor, error: nil}

      {:error, reason} ->
        again(%{state | error: reason})
    end
  end

  defp again(state) do
    _timer = Process.send_after(self(), :listen, @again_ms)
    state
  end

  @impl true
  def handle_call(:status, _from, state),
    do: {:reply, if(state.listener, do: :ok, else: {:error, state.error}), state}

  @impl true
  def handle_info(:listen, %{listener: nil} = state), do: {:noreply, listen(state)}

  def handle_info({:look, listener}, %{listener: listener, path: path} = state) do
    _timer = Process.send_after(self(), {:look, listener}, @look_for_socket_ms)

    # The socket cannot be reached any more, or other users can reach it, too. The end of the
    # acceptor follows and makes another socket.
    if File.lstat(path) == {:error, :enoent} or private(path) != :ok,
      do: :gen_tcp.close(listener)

    {:noreply, state}
  end

  def handle_info({:EXIT, pid, reason}, %{acceptor: pid} = state) do
    :gen_tcp.close(state.listener)
    {:noreply, again(%{state | listener: nil, acceptor: nil, error: reason})}
  end

  def handle_info(_stray, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{path: path, listener: listener}) when listener != nil do
    :gen_tcp.close(listener)
    _ = File.rm(path)
    :ok
  end

  def terminate(_reason, _state), do: :ok

  ## Requests

  defp accept(listener, busy) when busy >= @most_requests do
    receive do
      {:DOWN, _monitor, :process, _pid, _reason} -> accept(listener, busy - 1)
    end
  end

  defp accept(listener, busy) do
    busy = ended(busy)

    case :gen_tcp.accept(listener) do
      {:ok, socket} ->
        {pid, _monitor} =
          spawn_monitor(fn -> receive(do: ({:serve, ^socket} -> serve(socket))) end)

        # The socket closes with the process that serves it.
        _ = :gen_tcp.controlling_process(socket, pid)
        send(pid, {:serve, socket})
        accept(listener, busy + 1)

      {:error, reason} when reason in [:emfile, :enfile, :enobufs, :enomem, :system_limit] ->
        receive(after: (@again_ms -> accept(listener, busy)))

      {:error, reason} when reason in [:econnaborted, :eintr] ->
        accept(listener, busy)

      {:error, reason} ->
        exit({:shutdown, reason})
    end
  end

  defp ended(busy) do
    receive do
      {:DOWN, _monitor, :process, _pid, _reason} -> ended(busy - 1)
    after
      0 -> busy
    end
  end

  defp serve(socket) do
    with true <- served?(peer(socket)),
         {:ok, line} <- :gen_tcp.recv(socket, 0, @patience_ms) do
      lines = line |> request() |> answered() |> Enum.map(&[&1, ?\n])
      _ = :gen_tcp.send(socket, [lines, "end\n"])

      # The client closes after it has read the answer. A close here would cut off the rest of it.
      _ = :gen_tcp.recv(socket, 0, @patience_ms)
    end

    :gen_tcp.close(socket)
  end

  defp peer(socket) do
    case :inet.getopts(socket, [@peer]) do
      {:ok, [{:raw, 1, 17, <<_pid::native-32, uid::native-32, _gid::native-32>>}]} -> {:ok, uid}
      _unknown -> :error
    end
  end

  @doc "Returns whether requests of this user are carried out: this VM's own user and root."
  @spec served?({:ok, non_neg_integer()} | :error) :: boolean()
  def served?({:ok, uid}), do: uid in [0, Native.euid()]
  def served?(:error), do: false

  # The client gets an answer even if a defect keeps this VM from finding it.
  defp answered(request) do
    answer(request)
  rescue
    error -> [fields(["error", "this VM could not answer: #{inspect(error.__struct__)}"])]
  end

  @doc false
  @spec request(binary()) ::
          {:find, binary()}
          | {:stop, non_neg_integer(), binary()}
          | {:end, non_neg_integer(), pos_integer(), pos_integer()}
          | :names
          | :unknown
  def request(line) do
    case String.split(line, "\n") do
      ["names", ""] -> :names
      ["find " <> name, ""] when name != "" -> {:find, name}
      ["stop " <> rest, ""] -> stop_request(Integer.parse(rest))
      ["end " <> numbers, ""] -> end_request(numbers |> String.split() |> Enum.map(&number/1))
      # Too long, or something else.
      _other -> :unknown
    end
  end

  defp stop_request({ms, " " <> name}) when name != "",
    do: if(Schema.milliseconds?(ms), do: {:stop, ms, name}, else: :unknown)

  defp stop_request(_other), do: :unknown

  defp end_request([ms, number, shim]) when number > 0 and shim > 0,
    do: if(Schema.milliseconds?(ms), do: {:end, ms, number, shim}, else: :unknown)

  defp end_request(_other), do: :unknown

  # No number of a request is negative.
  defp number(text) do
    case Integer.parse(text) do
      {number, ""} -> number
      _other -> -1
    end
  end

  defp answer(:unknown),
    do: [
      fields(["error", "this VM does not know that request, or a number of it is out of bounds"])
    ]

  defp answer(:names) do
    for name <- Enum.uniq(Enum.flat_map(Registry.living(:all), &names/1)),
        do: fields(["name", name])
  end

  defp answer({:find, name}), do: name |> meant() |> Enum.map(&found/1)

  defp answer({:stop, deadline, name}) do
    rows = meant(name)
    {grouped, named} = Enum.split_with(rows, &group?(&1, name))
    groups = grouped |> Enum.map(& &1.group) |> Enum.uniq()

    tasks =
      for(group <- groups, do: fn -> stop_group(group, deadline) end) ++
        for row <- named, do: fn -> StopAll.stop(row.number, deadline) end

    stopped(rows, tasks, deadline)
  end

  # The operator saw the number some time ago. The shim says whether it is still the same tree.
  defp answer({:end, deadline, number, shim}) do
    rows = for %{shim: ^shim} = row <- Registry.living(number), do: row
    stopped(rows, for(_row <- rows, do: fn -> StopAll.stop(number, deadline) end), deadline)
  end

  defp stopped(rows, tasks, deadline) do
    # A worker that is late gets an answer from its row.
    done = tasks |> in_parallel(deadline + @last_word_ms) |> Map.new(&{&1.worker, &1})
    rows = Map.new(rows, &{&1.number, &1})

    for number <- Enum.uniq(Map.keys(rows) ++ Map.keys(done)) |> Enum.sort() do
      case done do
        %{^number => stopped} -> ended_line(stopped, rows[number])
        _other -> fields(described(rows[number]) ++ ["ending", "", ""])
      end
    end
  end

  defp in_parallel(functions, ms) do
    owner = self()
    until = System.monotonic_time(:millisecond) + ms

    # Not linked: the crash of one must not end the others.
    refs =
      for function <- functions do
        ref = make_ref()
        _pid = spawn(fn -> send(owner, {ref, function.()}) end)
        ref
      end

    Enum.flat_map(refs, fn ref ->
      receive do
        {^ref, stopped} -> stopped
      after
        max(until - System.monotonic_time(:millisecond), 0) -> []
      end
    end)
  end

  defp stop_group(group, deadline) do
    {_all_gone?, stopped} = StopAll.run(group, deadline: deadline)
    stopped
  end

  ## Which workers a name means

  @doc """
  Returns the rows that a name means: the workers with that name and all of the groups with it.

  An atom matches the results of `inspect/1` and `Atom.to_string/1`. A string matches itself and
  the result of `inspect/1`. Any other term matches the result of `inspect/1`.
  """
  @spec meant(binary()) :: [Registry.row()]
  def meant(name),
    do: for(row <- Registry.living(:all), group?(row, name) or named?(row, name), do: row)

  defp group?(%{group: nil}, _name), do: false
  defp group?(%{group: group}, name), do: called?(group, name)

  # An adopted tree is known only by its shim's command line: the text of its detached name.
  defp named?(%{kind: :adopted, label: label}, name),
    do: label in [name, ":" <> name] or name == "Elixir." <> label

  # The label of a worker without a name is its program's, which does not identify a worker.
  defp named?(%{name: nil}, _name), do: false
  defp named?(row, name), do: called?(row.name, name)

  defp called?(atom, name) when is_atom(atom), do: name in [Atom.to_string(atom), inspect(atom)]
  defp called?(text, name) when is_binary(text), do: name in [text, inspect(text)]
  defp called?(tuple, name), do: name == inspect(tuple)

  defp names(row) do
    group = if row.group != nil, do: [inspect(row.group)], else: []

    own =
      cond do
        row.kind == :adopted -> [row.label]
        row.name != nil -> [inspect(row.name)]
        true -> []
      end

    own ++ group
  end

  ## Lines

  defp found(row), do: row |> described() |> fields()

  defp described(row),
    do: ["worker", row.number, row.kind, row.os_pid, row.label, row.group && inspect(row.group)]

  # A worker that began while the group was being stopped has no earlier row.
  defp ended_line(stopped, row) do
    row = row || %{kind: :worker}
    row = Map.merge(row, Map.put(stopped, :number, stopped.worker))
    fields(described(row) ++ result(stopped.result))
  end

  defp result({:ok, %Exit{} = exit}), do: ["ended", how(exit), ""]
  defp result({:ok, :gone}), do: ["gone", "", ""]

  defp result({:error, %{survivors: survivors}}),
    do: ["survived", "", Enum.map_join(survivors, ",", &"#{&1.pid}:#{&1.why}")]

  @doc false
  @spec how(Exit.t()) :: String.t()
  def how(exit) do
    ended = if exit.signal, do: "#{name(exit.signal)}", else: "status #{exit.status}"
    step = if exit.step, do: ", the last of it by #{name(exit.step)}", else: ""
    "#{ended}#{step}, #{exit.duration} ms"
  end

  defp name(signal), do: signal |> to_string() |> String.upcase()

  defp fields(fields), do: fields |> Enum.map(&field/1) |> Enum.intersperse(?\t)

  defp field(nil), do: ""

  defp field(value) do
    value
    |> to_string()
    |> String.replace("\\", "\\\\")
    |> String.replace("\t", "\\t")
    |> String.replace("\n", "\\n")
  end
end

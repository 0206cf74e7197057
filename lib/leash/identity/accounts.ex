defmodule Leash.Identity.Accounts do
  # Users and groups of this machine. `/etc/passwd` and `/etc/group` come first. What they do not
  # have, such as a user of a directory service, is asked of getent(1).
  @moduledoc false

  alias Leash.Identity.Getent

  @typedoc "An entry of passwd(5)."
  @type account :: %{
          name: binary(),
          uid: non_neg_integer(),
          gid: non_neg_integer(),
          home: binary(),
          local?: boolean()
        }

  @type id :: non_neg_integer()
  @type problem :: :unknown | :timeout

  @doc "Returns the account of a name or a number."
  @spec account(binary() | id()) :: {:ok, account()} | {:error, problem()}
  def account(user) do
    with :error <- find("/etc/passwd", &passwd(&1, user)) do
      with {:ok, line} <- Getent.entry("passwd", "#{user}"), do: read(&entry(&1, false), line)
    end
  end

  @doc "Returns the number of a group of that name."
  @spec group(binary()) :: {:ok, id()} | {:error, problem()}
  def group(name) do
    with :error <- find("/etc/group", &group(&1, name)) do
      with {:ok, line} <- Getent.entry("group", name), do: read(&gid/1, line)
    end
  end

  @doc """
  Returns the groups of an account, as initgroups(3) sets them: its own, and those that list it as
  a member.
  """
  @spec groups(account()) :: {:ok, [id()]} | {:error, problem()}
  def groups(%{local?: true, name: name, gid: gid}) do
    gids = for line <- lines("/etc/group"), {:ok, gid} <- [membership(line, name)], do: gid
    {:ok, Enum.uniq([gid | gids])}
  end

  def groups(%{name: name, gid: gid}) do
    with {:ok, line} <- Getent.entry("initgroups", name) do
      [_name | gids] = String.split(line)
      gids = for text <- gids, {:ok, gid} <- [number(text)], do: gid
      {:ok, Enum.uniq([gid | gids])}
    end
  end

  defp find(path, read), do: Enum.find_value(lines(path), :error, &matching(read.(&1)))

  defp matching({:ok, _value} = found), do: found
  defp matching(:error), do: nil

  # A machine may have no such file: a container with one static program, for example.
  defp lines(path) do
    case File.read(path) do
      {:ok, text} -> :binary.split(text, "\n", [:global])
      {:error, _reason} -> []
    end
  end

  defp read(read, line), do: with(:error <- read.(line), do: {:error, :unknown})

  defp passwd(line, user) do
    with {:ok, account} <- entry(line, true) do
      if user in [account.name, account.uid], do: {:ok, account}, else: :error
    end
  end

  defp entry(line, local?) do
    with [name, _password, uid, gid, _gecos, home | _shell] <- fields(line),
         {:ok, uid} <- number(uid),
         {:ok, gid} <- number(gid) do
      {:ok, %{name: name, uid: uid, gid: gid, home: home, local?: local?}}
    else
      _no_entry -> :error
    end
  end

  defp group(line, name) do
    case fields(line) do
      [^name | _rest] -> gid(line)
      _other -> :error
    end
  end

  defp gid(line) do
    case fields(line) do
      [_name, _password, gid | _members] -> number(gid)
      _no_entry -> :error
    end
  end

  defp membership(line, name) do
    with [_name, _password, gid, members] <- fields(line),
         true <- name in :binary.split(members, ",", [:global]) do
      number(gid)
    else
      _no_member -> :error
    end
  end

  defp fields(line), do: :binary.split(line, ":", [:global])

  defp number(text) do
    case Integer.parse(text) do
      {number, ""} when number in 0..0xFFFFFFFE -> {:ok, number}
      _no_number -> :error
    end
  end
end
